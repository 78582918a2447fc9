"""UCF101-7: the test videos of UCF-101 in chunks of nine frames, the first 400 of them, at 256x256.

The protocol is of Jain et al., "Video Interpolation with Diffusion Models" (2024).
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from ..media import video_frames
from .clips import ClipSet

FRAMES, SIDE, EXAMPLES = 9, 256, 400
LISTS = ("testlist01.txt", "ucfTrainTestlist/testlist01.txt")


def is_ucf101(root: Path) -> bool:
    """Whether the list of test videos is there."""
    return any((root / name).is_file() for name in LISTS)


def read_ucf101(root: Path) -> ClipSet:
    """The first 400 chunks of the videos in testlist01.txt, found in UCF-101/ or beside the list.

    Raises ValueError for a video that is not there.
    """
    videos = [
        line.split()[0]
        for name in LISTS
        if (root / name).is_file()
        for line in (root / name).read_text(encoding="utf-8").splitlines()
        if line.strip()
    ]
    chunks: dict[str, tuple[Path, int]] = {}
    for video in videos:
        path = next((p for p in (root / "UCF-101" / video, root / video) if p.exists()), None)
        if path is None:
            raise ValueError(f"{root} has no video {video}, which testlist01.txt names; add it")
        count = sum(1 for _ in video_frames(path))  # AVI headers do not always tell
        for start in range(0, count - FRAMES + 1, FRAMES):
            chunks[f"{Path(video).stem}-{start:03d}"] = path, start
        if len(chunks) >= EXAMPLES:
            break

    def read(name: str) -> np.ndarray:
        path, start = chunks[name]
        film = [frame.numpy() for frame in islice(video_frames(path), start, start + FRAMES)]
        return np.stack([cv2.resize(f, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for f in film])

    return ClipSet(
        root.resolve().name,
        "UCF-101 by the UCF101-7 protocol, squeezed to 256x256",
        tuple(chunks)[:EXAMPLES],
        read,
        notes=("The 400 chunks are the first of testlist01.txt; the published ones are in another order.",),
    )
