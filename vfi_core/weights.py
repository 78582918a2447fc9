"""Weights that teach SVD in-betweening, in whatever format: recognised by names and metadata, and loaded."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TypeAlias

from .adapter import FORMAT, Adapter, is_adapter, load_adapter
from .files import read_header
from .framer import Framer, load_framer
from .kinds import is_framer, kind, refuse_other_formats

Weights: TypeAlias = Adapter | Framer
Recognises = Callable[[Collection[str], Mapping[str, str]], bool]  # names of tensors, metadata
FORMATS: tuple[tuple[Recognises, Callable[[Path], Weights]], ...] = (
    (lambda names, metadata: is_adapter(metadata), load_adapter),
    (lambda names, metadata: is_framer(names), load_framer),
)
IN_FOLDERS = ("unet/diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors")


def load_weights(path: Path) -> Weights:
    """The weights in a .safetensors file, or in a diffusers folder: its `unet`, or itself.

    Raises ValueError in one sentence for what is not there, of another kind, or damaged.
    """
    path = weight_file(path)
    refuse_other_formats(path)
    names, metadata = read_header(path)
    for recognises, load in FORMATS:
        if recognises(names, metadata):
            return load(path)
    raise ValueError(
        f"{path} is {kind(names, metadata)}, not an adapter; give a file of format {FORMAT}, or "
        "Framer's U-Net"
    )


def are_weights(path: Path) -> bool:
    """Whether `load_weights` knows what this file is, from its header alone."""
    try:
        header = read_header(path)
    except ValueError:
        return False
    return any(recognises(*header) for recognises, _ in FORMATS)


def weight_file(path: Path) -> Path:
    """The file itself, or the U-Net's in a diffusers folder. Raises ValueError where there is none."""
    path = Path(path)
    if not path.is_dir():
        return path
    found = [path / name for name in IN_FOLDERS if (path / name).is_file()]
    if not found:
        raise ValueError(
            f"{path} holds neither {' nor '.join(IN_FOLDERS)}; give the folder of a U-Net, or a file"
        )
    return found[0]
