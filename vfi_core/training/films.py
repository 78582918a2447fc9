"""What films a folder or a list holds, told from its content: one layout out of five.

Legend: n frames, H W pixels.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..media import read_picture
from ..media.read import PICTURES, VIDEOS
from ..media.seek import frames_at, timed_frames

SEPTUPLET = tuple(f"im{i}.png" for i in range(1, 8))


@dataclass(frozen=True)
class Film:
    """A video, or a folder of pictures that are a film's frames.

    name      as a list of held-out films writes it
    path      of the video or of the folder
    pictures  the frames' file names in order; None for a video
    """

    name: str
    path: Path
    pictures: tuple[str, ...] | None = None

    def stamps(self) -> list[tuple[str, int, int]]:
        """(name, bytes, second of the last change) of each of its files; -1 for one that is not there."""
        files = [self.path] if self.pictures is None else [self.path / name for name in self.pictures]
        return [(file.name, *_size_and_time(file)) for file in files]

    def frames(self) -> Iterator[tuple[int, Tensor]]:
        """(time, frame [H, W, 3] uint8), rising. Raises ValueError for a film that is not whole."""
        if self.pictures is None:
            yield from timed_frames(self.path)
            return
        self._check_numbers(self.pictures)
        yield from ((i, read_picture(self.path / name)) for i, name in enumerate(self.pictures))

    def at(self, times: Sequence[int]) -> Tensor:
        """The frames at rising times, [n, H, W, 3] uint8."""
        if self.pictures is None:
            return frames_at(self.path, times)
        return torch.stack([read_picture(self.path / self.pictures[i]) for i in times])

    def _check_numbers(self, pictures: tuple[str, ...]) -> None:
        if not pictures:
            raise ValueError(f"{self.path} holds no numbered pictures; give a folder of a film's frames")
        numbers = [_number(name) for name in pictures]
        steps = [b - a for a, b in zip(numbers, numbers[1:], strict=False)]
        for name, step in zip(pictures, steps, strict=False):
            if step != min(steps):
                raise ValueError(f"{self.path} lacks the picture after {name}; give every frame")


def find_films(root: Path) -> tuple[str, list[Film]]:
    """(layout, films) of ``root``, by what is there:

    list        a text file, one path of a video or of a folder of pictures a line, relative to it or
                absolute; empty lines and lines that begin with # say nothing
    windows     windows.json, which lists windows of the videos in `videos/`
    septuplets  Vimeo-90K as published: `sequences/00001/0001/im1.png` to im7.png; those that
                sep_trainlist.txt names. ``root`` may also be the folder around `vimeo_septuplet`
    videos      any videos, in subfolders too
    sequences   folders of numbered pictures, in subfolders too
    Raises ValueError where none of them fits, or both of the last two.
    """
    if root.is_file() and root.suffix.lower() == ".txt":
        listed = [_listed(root, line) for line in _lines(root)]
        return "list", list({film.path.resolve(): film for film in reversed(listed)}.values())[::-1]
    if (root / "windows.json").exists():
        names = dict.fromkeys(w["video"] for w in read_windows(root))
        return "windows", [Film(name, root / "videos" / name) for name in names]
    for vimeo in (root, root / "vimeo_septuplet"):
        if (vimeo / "sep_trainlist.txt").is_file() and (vimeo / "sequences").is_dir():
            names = _lines(vimeo / "sep_trainlist.txt")
            return "septuplets", [Film(n, vimeo / "sequences" / n, SEPTUPLET) for n in names]
    folders = sorted(_walk(root))
    videos = [at / name for at, names in folders for name in names if _is(name, VIDEOS)]
    numbered = [(at, _numbered(names)) for at, names in folders]
    sequences = [(at, pictures) for at, pictures in numbered if len(pictures) > 1]
    if videos and sequences:
        raise ValueError(
            f"{root} holds both videos ({videos[0].name}, ...) and folders of numbered pictures "
            f"({_name(sequences[0][0], root)}, ...); name what is meant in a .txt list"
        )
    if videos:
        return "videos", [Film(path.relative_to(root).as_posix(), path) for path in videos]
    if sequences:
        return "sequences", [Film(_name(at, root), at, pictures) for at, pictures in sequences]
    raise ValueError(
        f"{root} holds no windows.json, no Vimeo-90K (sequences/ and sep_trainlist.txt), no videos and no "
        "folders of numbered pictures, and is no .txt list of them; give another --data"
    )


def read_windows(root: Path) -> list[dict[str, Any]]:
    """The windows that ``root``/windows.json lists: video, start, stride, frames, motion_mad.

    Raises ValueError for a file that is no such list.
    """
    path = root / "windows.json"
    try:
        windows = json.loads(path.read_text(encoding="utf-8"))["windows"]
        for w in windows:
            _ = (w["video"], w["start"], w["stride"], w["frames"], w["motion_mad"])
        return windows
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no list of training windows ({error!r}); give another --data") from error


def hold_out(films: Sequence[Film], names: Sequence[str], where: Path) -> list[Film]:
    """The films without those of these names, or in folders of these names.

    Raises ValueError for a name that holds nothing out, or where nothing is left.
    """
    held = {name.rstrip("/"): False for name in names}
    kept = []
    for film in films:
        over = [film.name, *(p.as_posix() for p in Path(film.name).parents)]
        if found := [name for name in over if name in held]:
            held |= dict.fromkeys(found, True)
        else:
            kept.append(film)
    if stray := sorted(name for name, found in held.items() if not found):
        raise ValueError(f"{where} has no film '{stray[0]}' to hold out; mend the list in the configuration")
    if not kept:
        raise ValueError(f"{where} has no film left after the held-out {list(names)}; hold out fewer")
    return kept


def _walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Folders and the names in them, links followed, each folder once whatever leads to it."""
    seen: set[str] = set()
    for at, below, names in os.walk(root, followlinks=True):
        if (real := os.path.realpath(at)) in seen:
            below.clear()
            continue
        seen.add(real)
        if not _hidden(at, root):
            yield Path(at), sorted(names)


def _listed(file: Path, line: str) -> Film:
    path = file.parent / line
    return Film(line, path, _numbered(sorted(os.listdir(path))) if path.is_dir() else None)


def _lines(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as text ({error}); give a list of paths") from error
    named = [line for line in lines if line and not line.startswith("#")]
    if not named:
        raise ValueError(f"{path} names no film; write one path a line")
    return named


def _numbered(names: Sequence[str]) -> tuple[str, ...]:
    """The pictures whose names end in a number, in its order."""
    pictures = [n for n in names if _is(n, PICTURES - {".gif"}) and re.search(r"[0-9]$", Path(n).stem)]
    return tuple(sorted(pictures, key=lambda name: (_number(name), name)))


def _number(name: str) -> int:
    found = re.search(r"([0-9]+)$", Path(name).stem)
    return int(found[1]) if found else 0


def _is(name: str, suffixes: frozenset[str]) -> bool:
    return Path(name).suffix.lower() in suffixes and not name.startswith(".")


def _hidden(folder: str, root: Path) -> bool:
    return any(part.startswith(".") for part in Path(folder).relative_to(root).parts)


def _name(folder: Path, root: Path) -> str:
    return root.name if folder == root else folder.relative_to(root).as_posix()


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return -1, -1
    return found.st_size, int(found.st_mtime)
