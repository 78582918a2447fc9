"""The bundled pictures, laid where Load Image and Load Video find them: the workflows begin with them."""

from __future__ import annotations

import contextlib
import logging
import shutil
from pathlib import Path

import folder_paths

from ..vfi_core import samples

PREFIX = "svd_vfi_"
BUNDLED = Path(samples.__file__).parent


def offer_samples() -> None:
    """Copies what ComfyUI's input folder does not have yet; a file that is there stays as it is."""
    folder = Path(folder_paths.get_input_directory())
    for sample in sorted([*BUNDLED.glob("*.png"), *BUNDLED.glob("*.mp4")]):
        target = folder / f"{PREFIX}{sample.name}"
        partial = target.with_name(f"{target.name}.partial")
        try:
            if not target.exists():
                shutil.copyfile(sample, partial)
                partial.replace(target)
        except OSError as error:
            logging.warning(
                "SVD VFI: no example pictures in %s (%s); the workflows take any of your own", folder, error
            )
            with contextlib.suppress(OSError):
                partial.unlink()
            return
