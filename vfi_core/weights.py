"""What teaches SVD in-betweening, whatever its format: one file or folder in, its weights out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TypeAlias

from .adapter import FORMAT, Adapter, is_adapter, load_adapter
from .files import read_header, weight_files
from .framer import Framer, load_framer
from .kinds import is_framer, kind
from .reversal import ORIGINAL, Reversal, is_reversal, load_reversal

Weights: TypeAlias = Adapter | Framer | Reversal
Recognises = Callable[[Collection[str], Mapping[str, str]], bool]  # names of tensors, metadata
FORMATS: tuple[tuple[Recognises, Callable[[Path], Weights]], ...] = (  # most telling first
    (lambda names, metadata: is_adapter(metadata), load_adapter),
    (lambda names, metadata: is_framer(names), load_framer),
    (lambda names, metadata: is_reversal(names), load_reversal),
)


def load_weights(path: Path) -> Weights:
    """The weights in a .safetensors file, or in a diffusers folder: its `unet`, or itself.

    Raises ValueError in one sentence for what is not there, of another kind, or damaged.
    """
    names, metadata = _header(path)
    for recognises, load in FORMATS:
        if recognises(names, metadata):
            return load(path)
    raise ValueError(
        f"{path} is {kind(names, metadata)}, not an adapter; give a file of format {FORMAT}, Framer's U-Net, "
        "or Generative Inbetweening's"
    )


def are_weights(path: Path) -> bool:
    """Whether `load_weights` knows what this is, from its header alone."""
    try:
        header = _header(path)
    except ValueError:
        return False
    return any(recognises(*header) for recognises, _ in FORMATS)


def files_behind(path: Path) -> list[Path]:
    """Every file that the weights at ``path`` are read from: another one there makes other weights."""
    path = Path(path)
    if path.is_dir():
        return sorted(path.rglob("*.safetensors"))
    original = path.parent / ORIGINAL
    return [path, original] if original.is_file() and original != path else [path]


def _header(path: Path) -> tuple[list[str], dict[str, str]]:
    """Names of all tensors, and metadata. Raises ValueError for what is not there, damaged, or no weights."""
    names: list[str] = []
    metadata: dict[str, str] = {}
    for file in weight_files(Path(path)):
        header = read_header(file)
        names += header[0]
        metadata |= header[1]
    return names, metadata
