"""The frames that a node drew last: one segment drawn anew leaves the others uncomputed, and a cancelled film
goes on where it was.

They live as long as the MODEL they were drawn with, which the host's own cache holds and lets go; of the
nodes that draw with one MODEL the last four are remembered.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor

Frames = dict[Hashable, "Drawn"]  # by what a segment depends on
NODES = 4
_kept: weakref.WeakKeyDictionary[Any, dict[str, Frames]] = weakref.WeakKeyDictionary()


class Same:
    """An object by its identity, without keeping it alive; None is like None."""

    def __init__(self, one: Any) -> None:
        self.refer = (lambda: Same) if one is None else weakref.ref(one)
        self.hash = id(one)

    def __hash__(self) -> int:
        return self.hash

    def __eq__(self, other: object) -> bool:
        one = self.refer()  # a dead object is like none: its id may be another's by now
        return one is not None and isinstance(other, Same) and other.refer() is one


class Drawn:
    """A segment's frames between its keyframes, as a view of the film that was handed out."""

    def __init__(self, frames: Tensor) -> None:
        self.frames, self.sum = frames, checksum(frames)

    @property
    def whole(self) -> bool:
        """False once a node further on has written into that film."""
        return checksum(self.frames) == self.sum


def checksum(frames: Tensor) -> float:
    return frames.sum(dtype=torch.float64).item()


def kept_frames(model: Any, node: str | None) -> Frames:
    """What the node of this id drew last with this MODEL, to be read and written; nothing without an id."""
    if node is None:
        return {}
    nodes = _kept.setdefault(model, {})
    nodes[node] = nodes.pop(node, {})
    while len(nodes) > NODES:
        del nodes[next(iter(nodes))]
    return nodes[node]


def digest(picture: Tensor) -> str:
    return f"{tuple(picture.shape)} {hashlib.sha256(picture.contiguous().numpy().tobytes()).hexdigest()}"
