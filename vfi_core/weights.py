"""What teaches SVD in-betweening, whatever its kind: one file or folder in, its weights out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open

from .adapter import FORMAT, Adapter, load_adapter
from .files import weight_files
from .reversal import Reversal, is_reversal, load_reversal

Weights = Adapter | Reversal


def is_adapter(_names: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Whether a file with this metadata is an adapter of this project's."""
    return metadata.get("format") == FORMAT


# (recognises the names of its tensors and its metadata, loads it), most telling first.
KINDS: tuple[tuple[Callable[[Collection[str], Mapping[str, str]], bool], Callable[[Path], Weights]], ...] = (
    (is_adapter, load_adapter),
    (is_reversal, load_reversal),
)


def loader_of(path: Path) -> Callable[[Path], Weights] | None:
    """Which of `KINDS` loads a file or a diffusers folder; None where none does, or it cannot be read."""
    names: list[str] = []
    metadata: dict[str, str] = {}
    try:
        for file in weight_files(path):
            with safe_open(file, "pt") as opened:
                names += opened.keys()
                metadata |= opened.metadata() or {}
    except (SafetensorError, OSError, ValueError):
        return None
    return next((loads for recognises, loads in KINDS if recognises(names, metadata)), None)


def load_weights(path: Path) -> Weights:
    """The weights of a file, or of a diffusers folder. Raises ValueError that says what it is instead."""
    return (loader_of(path) or load_adapter)(path)
