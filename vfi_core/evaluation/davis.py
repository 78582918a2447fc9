"""DAVIS by the published DAVIS-7 protocol: nine frames in a row, the seven between first and last generated.

Jain et al., "Video Interpolation with Diffusion Models" (2024) and their scripts: every shot is split into
chunks of nine that share no frame, each frame cut to its centre square and averaged to 256x256 in linear
light (gamma 2.2). They had the 50 shots of DAVIS 2016 (357 chunks).
"""

from __future__ import annotations

import zipfile
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from .clips import ClipSet

FRAMES, SIDE, GAMMA = 9, 256, 2.2
SHOTS = "JPEGImages/480p"
SHOTS_2016 = 50
Place = Path | zipfile.Path


def is_davis(root: Path) -> bool:
    """Whether JPEGImages/480p is there: in the folder, one below it, or in the zip file."""
    return _release(root) is not None


def read_davis(root: Path) -> ClipSet:
    """Every chunk, named shot-first_frame. Of the 2017 release only the shots of 2016, where it lists them.

    Raises ValueError for a picture that cannot be read, when it is read.
    """
    release = _release(root)
    assert release is not None  # `is_davis` was asked
    listed = _shots_of_2016(release)
    chunks: dict[str, list[Place]] = {}
    used = 0
    for shot in sorted((release / SHOTS).iterdir(), key=lambda place: place.name):
        if not shot.is_dir() or (listed and shot.name not in listed):
            continue
        used += 1
        frames = sorted((p for p in shot.iterdir() if p.name.endswith(".jpg")), key=lambda p: p.name)
        for start in range(0, len(frames) - FRAMES + 1, FRAMES):
            chunks[f"{shot.name}-{start:03d}"] = frames[start : start + FRAMES]
    notes = () if used == SHOTS_2016 else (f"{used} shots; the published figures are of {SHOTS_2016}.",)
    return ClipSet(
        root.resolve().name.removesuffix(".zip"),
        "DAVIS by the DAVIS-7 protocol, 256x256",
        tuple(chunks),
        lambda name: np.stack([protocol(_picture(place)) for place in chunks[name]]),
        notes=notes,
    )


def protocol(frame: np.ndarray) -> np.ndarray:
    """The centre square of a frame [H, W, 3] uint8, averaged to [256, 256, 3] uint8 in linear light."""
    half = min(frame.shape[:2]) // 2
    y, x = frame.shape[0] // 2, frame.shape[1] // 2
    square = frame[y - half : y + half, x - half : x + half].astype(np.float32) ** GAMMA
    small = cv2.resize(square, (SIDE, SIDE), interpolation=cv2.INTER_AREA) ** (1 / GAMMA)
    return (small + 0.5).clip(0, 255).astype(np.uint8)


def _release(root: Path) -> Place | None:
    """The folder DAVIS of the release: ``root``, or a folder in it; inside the zip file, too."""
    if not root.is_dir() and not zipfile.is_zipfile(root):
        return None
    top: Place = root if root.is_dir() else zipfile.Path(root)
    places = (top, top / "DAVIS") if root.is_dir() else (top, *(p for p in top.iterdir() if p.is_dir()))
    return next((place for place in places if (place / SHOTS).is_dir()), None)


def _shots_of_2016(davis: Place) -> set[str]:
    lists = [davis / "ImageSets" / "2016" / f"{part}.txt" for part in ("train", "val")]
    return {line.strip() for one in lists if one.is_file() for line in one.read_text("utf-8").splitlines()}


def _picture(place: Place) -> np.ndarray:
    try:
        with Image.open(BytesIO(place.read_bytes())) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError, zipfile.BadZipFile) as error:
        raise ValueError(f"{place} cannot be read ({error}); fetch DAVIS again") from error
