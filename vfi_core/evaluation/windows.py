"""Windows of videos that training never saw, out of a folder of training videos."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from ..media import video_frames
from .clips import ClipSet


def read_windows(root: Path, held_out: Sequence[str], frames: int, per_video: int) -> ClipSet:
    """Windows of the named videos that share no frame, at most ``per_video`` of each, the same every time.

    ``root`` holds windows.json ("windows": video, start, stride, frames) and the folder videos/. Windows are
    taken in an order drawn from the video's name, so that all strides have their share.
    Raises ValueError where nothing was held out, or a video has no window of ``frames`` frames.
    """
    if not held_out:
        raise ValueError(
            f"{root} is a folder of training videos: name the held-out ones (--held-out a.mp4 b.mp4)"
        )
    path = root / "windows.json"
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))["windows"]
        windows = [{key: w[key] for key in ("video", "start", "stride", "frames")} for w in listed]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a list of windows in JSON ({error!r})") from error
    places: dict[str, tuple[str, int, int]] = {}
    for video in held_out:
        mine = [w for w in windows if w["video"] == video and w["frames"] >= frames]
        if not mine:
            raise ValueError(f"{path} has no window of {frames} frames in the video '{video}'")
        for start, stride in apart(mine, frames, video)[:per_video]:
            places[f"{Path(video).stem}@{start}x{stride}"] = video, start, stride

    def read(name: str) -> np.ndarray:
        video, start, stride = places[name]
        end = start + stride * (frames - 1) + 1
        film = [frame.numpy() for frame in islice(video_frames(root / "videos" / video), start, end, stride)]
        if len(film) < frames:
            raise ValueError(
                f"{root / 'videos' / video} ends before frame {end - 1}; it is not the one of {path}"
            )
        return np.stack(film)

    return ClipSet("held-out", "windows of held-out videos", tuple(places), read)


def apart(windows: list[dict], frames: int, seed: str) -> list[tuple[int, int]]:
    """(start, stride) of windows of which no two overlap in time, picked in an order drawn from ``seed``."""
    # Sorted first: the pick depends on the set of windows, not on their order in the file.
    order = sorted({(w["start"], w["stride"]) for w in windows})
    random.Random(seed).shuffle(order)
    kept: list[tuple[int, int]] = []
    for start, stride in order:
        end = start + stride * (frames - 1)
        if all(end < s or start > s + d * (frames - 1) for s, d in kept):
            kept.append((start, stride))
    return kept
