"""Methods under one contract: a clip in, a film out, whether it is drawn, restored or lies on the disk.

Legend: t frames, H W pixels; pictures are RGB, float 0..1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from torch import Tensor

from .baselines import Interpolator
from .clips import Clip, ClipSet, as_floats, fit
from .films import films_in, read_film

Restorer = Callable[[Tensor], Tensor]
"""f(clip [t, H, W, 3]) -> the same film [t, H, W, 3] after a lossy round trip."""
Draw = Callable[[ClipSet, Clip], Tensor | None]
"""The film of a clip, [t, H, W, 3], or [t - 2, H, W, 3] without ends of its own; None where there is none."""


@dataclass(frozen=True)
class Method:
    """name: on the command line and, as `slug`, in files; label: in tables."""

    name: str
    label: str
    draw: Draw

    @property
    def slug(self) -> str:
        """The name as a file's: lower case letters, digits, dots and dashes."""
        return re.sub(r"[^a-z0-9.]+", "-", self.name.lower()).strip("-.") or "method"


def between(name: str, label: str, interpolate: Interpolator) -> Method:
    """A method that sees the first and the last frame."""
    return Method(
        name, label, lambda _, clip: interpolate(clip.frames[0], clip.frames[-1], len(clip.frames) - 2)
    )


def inside(name: str, label: str, restore: Restorer) -> Method:
    """A method that sees the truth: the ceiling of everything behind it."""
    return Method(name, label, lambda _, clip: restore(clip.frames))


def published(sets: Sequence[ClipSet]) -> list[Method]:
    """The films that lie beside the truth, brought to the clips' size as the truth was."""

    def method(label: str) -> Method:
        def draw(clips: ClipSet, clip: Clip) -> Tensor | None:
            read = clips.films.get(label)
            return None if read is None else as_floats(fit(read(clip.name), clips.size))

        return Method(label, label, draw)

    return [method(label) for label in dict.fromkeys(label for clips in sets for label in clips.films)]


def somebodys(label: str, root: Path, sets: Sequence[ClipSet]) -> tuple[Method, list[str]]:
    """Films in a folder: root/<set>/<clip> or root/<clip>, each a subfolder of pictures or a video.

    They hold all t frames of the clip or the t - 2 between. What is missing is told in sentences.
    Raises ValueError for no folder, or one without a film of any clip.
    """
    if not root.is_dir():
        raise ValueError(
            f"--method {label}={root} is no folder; give one with a subfolder or a video per clip"
        )

    @cache
    def films(name: str) -> dict[str, Path]:
        return films_in(root / name if (root / name).is_dir() else root)

    def draw(clips: ClipSet, clip: Clip) -> Tensor | None:
        path = films(clips.name).get(clip.name)
        return None if path is None else as_floats(fit(read_film(path), clips.size))

    missing = {clips.name: [name for name in clips.names if name not in films(clips.name)] for clips in sets}
    if all(len(missing[clips.name]) == len(clips) for clips in sets):
        raise ValueError(
            f"{root} holds no film named like a clip ({sets[0].names[0]}); rename its subfolders"
        )
    told = [
        f"{label} has no film of {len(some)} of the {len(clips)} clips of {clips.name} ({some[0]} first); "
        "its means are over the others."
        for clips in sets
        if (some := missing[clips.name])
    ]
    return Method(label, label, draw), told
