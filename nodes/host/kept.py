"""The frames that a node drew last: one segment drawn anew leaves the others uncomputed, and a cancelled film
goes on where it was.

They live as long as the MODEL they were drawn with, which the host's own cache holds and lets go.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Hashable
from typing import Any

from torch import Tensor

Frames = dict[Hashable, Tensor]  # what a segment depends on -> its frames between the keyframes
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


def kept_frames(model: Any, node: str | None) -> Frames:
    """What the node of this id drew last with this MODEL, to be read and written; nothing without an id."""
    return {} if node is None else _kept.setdefault(model, {}).setdefault(node, {})


def digest(picture: Tensor) -> str:
    return hashlib.sha256(picture.contiguous().numpy().tobytes()).hexdigest()
