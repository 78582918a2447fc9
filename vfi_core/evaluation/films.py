"""Films as they lie in a folder: a subfolder of pictures or a video for each clip, named like it.

Legend: t frames, H W pixels; frames are [t, H, W, 3] uint8 RGB.
"""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path

import numpy as np

from ..media import read_picture, video_frames
from ..media.read import PICTURES, VIDEOS


def films_in(root: Path) -> dict[str, Path]:
    """Name of a clip -> the subfolder of pictures or the video it lies in, in natural order.

    Raises ValueError where two have the same name (a.mp4 and a/).
    """
    found: dict[str, Path] = {}
    for path in sorted(root.iterdir(), key=_natural) if root.is_dir() else []:
        if path.name.startswith(".") or not (_is_video(path) or (path.is_dir() and pictures_in(path))):
            continue
        name = path.name if path.is_dir() else path.stem
        if name in found:
            raise ValueError(f"{root} holds two films called '{name}'; rename one of them")
        found[name] = path
    return found


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder in natural order: 2 before 10."""
    return sorted(
        (p for p in folder.iterdir() if p.suffix.lower() in PICTURES and not p.name.startswith(".")),
        key=_natural,
    )


def read_film(path: Path, frames: int | None = None) -> np.ndarray:
    """A folder of pictures or a video: all frames, or the first ones. Raises ValueError for fewer."""
    if path.is_dir():
        film = [read_picture(p).numpy() for p in pictures_in(path)[:frames]]
    else:
        film = [frame.numpy() for frame in islice(video_frames(path), frames)]
    if len(film) < (frames or 1):
        raise ValueError(
            f"{path} holds {len(film)} frames and {frames or 1} were asked for; use fewer --frames"
        )
    if odd := [frame.shape for frame in film if frame.shape != film[0].shape]:
        raise ValueError(
            f"{path} holds frames of {_size(film[0].shape)} and of {_size(odd[0])}; make all one size"
        )
    return np.stack(film)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEOS and path.is_file()


def _natural(path: Path) -> list[tuple[int, str]]:
    return [(int(p), "") if p.isdigit() else (0, p) for p in re.split(r"([0-9]+)", path.name.lower())]
