"""Files written whole or not at all; safetensors files, read, and which ones a folder's model is in."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .kinds import refuse_other_formats

Check = Callable[[Collection[str], Mapping[str, str]], None]


@contextmanager
def replacing(path: Path, shared: bool = False) -> Iterator[Path]:
    """A temporary path beside ``path``. What the block leaves there is flushed to disk and renamed over
    ``path`` if it ends well, and vanishes if not.

    shared  other processes may be at the same file: the temporary name is this process's own
    """
    mine = f".{os.getpid()}" if shared else ""
    partial = path.with_name(f".{path.name}{mine}.part")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def replace_text(path: Path, text: str, shared: bool = False) -> None:
    """Write a text file whole or not at all, its line ends as they are; see `replacing`."""
    with replacing(path, shared) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        file.write(text)


def write_safetensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], shared: bool = False
) -> None:
    """Write a file whole or not at all; see `replacing`.

    Raises ValueError where the folder is missing or the disk does not take it; ``path`` is then as it was.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise ValueError(f"folder {path.parent} does not exist; create it before saving {path.name}")
    try:
        with replacing(path, shared) as partial:
            save_file(
                {k: v.detach().contiguous() for k, v in tensors.items()}, partial, metadata=dict(metadata)
            )
            mask = os.umask(0)
            os.umask(mask)
            partial.chmod(0o666 & ~mask)  # safetensors makes its files readable for their owner alone
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} cannot be written ({error}); free space or choose another folder"
        ) from error


def read_header(path: Path) -> tuple[list[str], dict[str, str]]:
    """Names of the tensors and metadata; no weight is read. Raises ValueError for a damaged file."""
    return _read(path, lambda names, metadata: None, weights=False)[1:]


def read_safetensors(
    path: Path, check: Check = lambda names, metadata: None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors by name, metadata), all of them finite.

    check  gets names and metadata before any weight is read, and raises where the file is not what is wanted
    Raises ValueError for a file that is damaged or cannot be read.
    """
    tensors, _, metadata = _read(path, check, weights=True)
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{path} holds values that are not finite in {name}; fetch or train it again")
    return tensors, metadata


def _read(path: Path, check: Check, weights: bool) -> tuple[dict[str, Tensor], list[str], dict[str, str]]:
    try:
        with safe_open(path, "pt") as file:
            names, metadata = list(file.keys()), file.metadata() or {}
            check(names, metadata)
            return {n: file.get_tensor(n) for n in names if weights}, names, metadata
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}); fetch or train it again"
        ) from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error})") from error


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
