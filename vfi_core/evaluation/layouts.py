"""Which data set a folder holds, told by what lies in it.

Legend: t frames, H W pixels; frames are [t, H, W, 3] uint8 RGB.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .clips import ClipSet
from .davis import is_davis, read_davis
from .films import films_in, pictures_in, read_film
from .lists import SNU_FILM, VIMEO, read_snu_film, read_vimeo
from .pairs import is_pairs, read_pairs
from .ucf101 import is_ucf101, read_ucf101
from .windows import read_windows


@dataclass(frozen=True)
class Wanted:
    """What a person may choose of the sets that do not say it themselves.

    frames     of a clip, the two given ones included; published protocols have their own
    held_out   videos that training never saw, of a folder of training videos
    per_video  windows taken of each of them at most
    """

    frames: int = 7
    held_out: Sequence[str] = ()
    per_video: int = 8


def open_sets(root: Path, wanted: Wanted) -> list[ClipSet]:
    """The sets in a folder (or DAVIS' zip file), told by the first line of `LAYOUTS` that fits.

    Raises ValueError in one sentence where none fits, or what it promises is not there.
    """
    root = Path(root)
    if not root.exists():
        raise ValueError(f"{root} does not exist; give a folder of clips, or DAVIS' zip file")
    for inner in ("vimeo_septuplet", "vimeo_triplet"):  # the folder around it will do, as in training
        root = root / inner if (root / inner).is_dir() else root
    for belongs, read in LAYOUTS:
        if belongs(root):
            sets = read(root, wanted)
            if not all(map(len, sets)):
                raise ValueError(f"{root} holds no clip ({sets[0].layout}); give a folder that holds some")
            return sets
    raise ValueError(
        f"{root} is no data set that is known; give DAVIS (zip or folder), Vimeo-90K, SNU-FILM, UCF-101, "
        "pairs <id>_input.mp4 and <id>_gt.mp4, a folder with manifest.json or windows.json, or one of "
        "subfolders of pictures, or of videos"
    )


def _manifest(root: Path, wanted: Wanted) -> list[ClipSet]:
    """The first frames of the folders that manifest.json names ("clips": [{"clip": ...}])."""
    path = root / "manifest.json"
    try:
        folders = [str(entry["clip"]) for entry in json.loads(path.read_text(encoding="utf-8"))["clips"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a list of clips in JSON ({error!r})") from error
    for folder in folders:
        count = len(pictures_in(root / folder)) if (root / folder).is_dir() else 0
        if count < wanted.frames:
            raise ValueError(
                f"{root / folder} holds {count} frames and {wanted.frames} were asked for; use fewer --frames"
            )
    paths = {folder.replace("/", "-"): root / folder for folder in folders}
    return [_firsts(root, "folders of frames that manifest.json names", paths, wanted.frames)]


def _folder(root: Path, wanted: Wanted) -> list[ClipSet]:
    return [_firsts(root, "a folder of films, the first frames of each", films_in(root), wanted.frames)]


def _firsts(root: Path, layout: str, paths: dict[str, Path], frames: int) -> ClipSet:
    return ClipSet(root.resolve().name, layout, tuple(paths), lambda name: read_film(paths[name], frames))


Layout = tuple[Callable[[Path], bool], Callable[[Path, Wanted], list[ClipSet]]]
LAYOUTS: tuple[Layout, ...] = (  # most telling first; a folder of training videos has a manifest too
    (is_davis, lambda root, wanted: [read_davis(root)]),
    (is_pairs, lambda root, wanted: [read_pairs(root)]),
    (
        lambda root: (root / "windows.json").exists(),
        lambda root, wanted: [read_windows(root, wanted.held_out, wanted.frames, wanted.per_video)],
    ),
    (lambda root: (root / "manifest.json").exists(), _manifest),
    (lambda root: any((root / name).exists() for name in VIMEO), lambda root, wanted: read_vimeo(root)),
    (lambda root: any(any(root.glob(g)) for g in SNU_FILM), lambda root, wanted: read_snu_film(root)),
    (is_ucf101, lambda root, wanted: [read_ucf101(root)]),
    (lambda root: bool(films_in(root)), _folder),
)
