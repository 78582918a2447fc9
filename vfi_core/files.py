"""Safetensors files: which ones a folder's model is in, and written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from .kinds import refuse_other_formats


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


def weight_files(path: Path) -> list[Path]:
    """The .safetensors of one model, in a file, a diffusers folder, or that of its U-Net.

    Of several variants the unmarked one, else the first; or all shards. Raises ValueError if there is none.
    """
    if not path.is_dir():
        refuse_other_formats(path)
        return [path]
    folder = path / "unet" if (path / "unet").is_dir() else path
    files = sorted(folder.glob("*.safetensors"))
    plain = [f for f in files if f.stem in ("diffusion_pytorch_model", "model")]
    shards = [f for f in files if "-of-" in f.stem]
    chosen = plain or shards or files[:1]
    if not chosen:
        raise ValueError(
            f"{folder} holds no .safetensors file; save the model again with safe_serialization=True"
        )
    for file in chosen:
        refuse_other_formats(file)
    return chosen
