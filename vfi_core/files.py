"""Safetensors files, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write under a temporary name beside ``path``, flush it to disk, then rename it over ``path``.

    Raises ValueError where the folder is missing or the disk does not take it; ``path`` is then as it was.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise ValueError(f"folder {path.parent} does not exist; create it before saving {path.name}")
    partial = path.with_name(f".{path.name}.part")
    try:
        save_file({k: v.detach().contiguous() for k, v in tensors.items()}, partial, metadata=dict(metadata))
        mask = os.umask(0)
        os.umask(mask)
        partial.chmod(0o666 & ~mask)  # safetensors makes its files readable for their owner alone
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} cannot be written ({error}); free space or choose another folder"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
