"""Clips to measure on: folders of frames, or windows of videos that training never saw.

Legend: t frames, H W pixels; pictures are RGB, float 0..1.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from ..media import read_picture, read_video
from .metrics import dis_flow, flow_magnitude


@dataclass(frozen=True)
class Clip:
    """A film whose first and last frame are given and whose others are the truth: frames [t, H, W, 3]."""

    name: str
    frames: Tensor

    @cached_property
    def motion(self) -> float:
        """Mean length of the DIS flow from the first frame to the last, in pixels."""
        return flow_magnitude(dis_flow(self.frames[0], self.frames[-1]))


def large_motion(clips: list[Clip]) -> list[bool]:
    """Which clips move more than the median clip of the list."""
    median = np.median([clip.motion for clip in clips]) if clips else 0.0
    return [bool(clip.motion > median) for clip in clips]


def square(frame: np.ndarray, size: int | None) -> np.ndarray:
    """The centre square of a picture [H, W, 3] uint8, area-averaged to [size, size, 3]; None: as it is."""
    if size is None:
        return frame
    height, width = frame.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return cv2.resize(frame[top : top + side, left : left + side], (size, size), interpolation=cv2.INTER_AREA)


def read_clips(root: Path, frames: int, size: int | None = None) -> list[Clip]:
    """The first ``frames`` frames of every clip listed in ``root``/manifest.json.

    The manifest's "clips" name folders ("clip") of PNG frames 000.png, 001.png, ... beside it.
    Raises ValueError for a folder without that manifest, or a clip with too few frames.
    """
    root = Path(root)
    clips = []
    for entry in _json(root / "manifest.json", "clips"):
        paths = sorted((root / entry["clip"]).glob("*.png"))[:frames]
        if len(paths) < frames:
            raise ValueError(
                f"{root / entry['clip']} holds {len(paths)} PNG frames and {frames} were asked for"
            )
        clips.append(_clip(entry["clip"], [read_picture(p).numpy() for p in paths], size))
    return clips


def read_held_out(
    root: Path, videos: list[str], frames: int, size: int | None = None, per_video: int = 8
) -> list[Clip]:
    """Windows of the named videos that share no frame, at most ``per_video`` of each, the same every time.

    ``root`` holds windows.json ("windows": video, start, stride, frames) and the folder videos/. Windows are
    taken in an order drawn from the video's name, so that all strides have their share.
    Raises ValueError where nothing was held out, or a video has no window of ``frames`` frames.
    """
    root = Path(root)
    if not videos:
        raise ValueError(
            f"{root} is a folder of training videos: name the held-out ones (--held-out a.mp4 b.mp4)"
        )
    windows = _json(root / "windows.json", "windows")
    clips = []
    for video in videos:
        mine = [w for w in windows if w["video"] == video and w["frames"] >= frames]
        if not mine:
            raise ValueError(
                f"{root / 'windows.json'} has no window of {frames} frames in the video '{video}'"
            )
        film = read_video(root / "videos" / video).numpy()
        for start, stride in apart(mine, frames, video)[:per_video]:
            window = film[start : start + stride * (frames - 1) + 1 : stride]
            if len(window) < frames:
                raise ValueError(
                    f"{root / 'videos' / video} ends before frame {start + stride * (frames - 1)}"
                )
            clips.append(_clip(f"{Path(video).stem}@{start}x{stride}", list(window), size))
    return clips


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


def _clip(name: str, frames: list[np.ndarray], size: int | None) -> Clip:
    return Clip(name, torch.from_numpy(np.stack([square(f, size) for f in frames])).float() / 255)


def _json(path: Path, key: str) -> list[dict]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))[key]
    except FileNotFoundError as error:
        raise ValueError(
            f"no {path.name} in {path.parent}; give a folder of clips or of training videos"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a list of {key} in JSON ({error!r})") from error
