"""Benchmarks that list their clips in text files: Vimeo-90K's test split and SNU-FILM."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..media import read_picture
from .clips import ClipSet

VIMEO = {"sep_testlist.txt": ("septuplets", 7), "tri_testlist.txt": ("triplets", 3)}
LEVELS = ("easy", "medium", "hard", "extreme")
SNU_FILM = ("test-easy.txt", "*/test-easy.txt")


def read_vimeo(root: Path) -> list[ClipSet]:
    """sequences/<line>/im1.png, im2.png, ... for the lines of sep_testlist.txt, tri_testlist.txt, or both."""
    sets = []
    for file, (kind, count) in VIMEO.items():
        if (root / file).exists():
            clips = {
                line.replace("/", "-"): [root / "sequences" / line / f"im{i + 1}.png" for i in range(count)]
                for line in _lines(root / file)
            }
            sets.append(_of_pictures(f"{root.resolve().name}-{kind}", f"Vimeo-90K's test {kind}", clips))
    return sets


def read_snu_film(root: Path) -> list[ClipSet]:
    """A set for each of test-easy.txt, -medium, -hard and -extreme: three pictures a line.

    The lists, here or in a folder below, give paths from some folder above: what is not found is cut off.
    Raises ValueError for other lines, or where the pictures are not below ``root``.
    """
    folder = next(path for pattern in SNU_FILM for path in root.glob(pattern)).parent
    sets = []
    for level in LEVELS:
        path = folder / f"test-{level}.txt"
        if not path.exists():
            continue
        clips = {}
        for line in _lines(path):
            parts = [Path(file).parts for file in line.split()]
            above = next((i for i in range(len(parts[0])) if root.joinpath(*parts[0][i:]).exists()), None)
            if len(parts) != 3 or above is None:
                raise ValueError(f"{path} has the line '{line}', which is no three pictures below {root}")
            name = "-".join(Path(*parts[1][above:]).with_suffix("").parts)  # of the picture between
            clips[name] = [root.joinpath(*part[above:]) for part in parts]
        sets.append(_of_pictures(f"{root.resolve().name}-{level}", f"SNU-FILM {level}, triplets", clips))
    return sets


def _of_pictures(name: str, layout: str, clips: dict[str, list[Path]]) -> ClipSet:
    def read(clip: str) -> np.ndarray:
        return np.stack([read_picture(path).numpy() for path in clips[clip]])

    return ClipSet(name, layout, tuple(clips), read)


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text ({error}); give the published list") from error
    return [line.strip() for line in lines if line.strip()]
