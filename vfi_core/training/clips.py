"""Training clips: seven-frame windows of real videos and procedural scenes, drawn from a seed and a step.

Legend: b batch, t frames, H W pixels. Every draw is a pure function of (seed, step), so that a killed run
resumes with the clips it would have seen.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..media import read_video
from .procedural import procedural_clip


@dataclass
class ClipSource:
    """Clips [b, t, 3, size, size] in -1..1.

    root        a folder with `videos/` and `windows.json` (video, start, stride, frames, motion_mad)
    held_out    names of videos that are never drawn; each must be in windows.json, or frames would leak
    procedural  share of procedural clips; half of them pan over a still of a real video
    """

    root: Path
    size: int
    held_out: tuple[str, ...] = ()
    procedural: float = 0.5
    _videos: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        path = Path(self.root) / "windows.json"
        try:
            text = path.read_text(encoding="utf-8")
            windows = json.loads(text)["windows"]
            videos = {w["video"] for w in windows}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is no list of training windows ({error!r}); give another --data"
            ) from error
        if stray := sorted(set(self.held_out) - videos):
            raise ValueError(
                f"{path} has no video '{stray[0]}' to hold out; mend the list in the configuration"
            )
        listed = hashlib.sha256(text.encode()).hexdigest()[:16]
        self.fingerprint = repr((self.size, sorted(self.held_out), self.procedural, listed))
        self.windows = [w for w in windows if w["video"] not in self.held_out]
        if not self.windows:
            raise ValueError(
                f"{self.root} has no training window left after the held-out videos {self.held_out}"
            )
        # Favour motion, and keep one long video from filling half of the draws.
        share = {w["video"]: 0 for w in self.windows}
        for w in self.windows:
            share[w["video"]] += 1
        self._weights = torch.tensor(
            [(1 + w["motion_mad"]) ** 0.5 / share[w["video"]] ** 0.5 for w in self.windows]
        )

    def draw(self, seed: int, step: int, batch: int, frames: int) -> Tensor:
        """The clips of one step, [b, t, 3, size, size] in -1..1."""
        g = torch.Generator().manual_seed(seed * 1_000_003 + step)
        return torch.stack([self._one(g, frames) for _ in range(batch)])

    def _one(self, g: torch.Generator, length: int) -> Tensor:
        if torch.rand((), generator=g) >= self.procedural:
            return self._real(g, length)
        background = self._real(g, 1)[0] if torch.rand((), generator=g) < 0.5 else None
        return procedural_clip(g, length, self.size, background)

    def _real(self, g: torch.Generator, length: int) -> Tensor:
        window = self.windows[int(torch.multinomial(self._weights, 1, generator=g))]
        start, stride = window["start"], window["stride"]
        if window["frames"] < length:
            raise ValueError(f"windows of {window['frames']} frames are too short for clips of {length}")
        frames = self._video(window["video"])[start : start + stride * length : stride]  # [t, H, W, 3]
        frames = frames.permute(0, 3, 1, 2)
        side = int(
            torch.randint(min(self.size, *frames.shape[2:]), min(frames.shape[2:]) + 1, (), generator=g)
        )
        top = int(torch.randint(0, frames.shape[2] - side + 1, (), generator=g))
        left = int(torch.randint(0, frames.shape[3] - side + 1, (), generator=g))
        frames = frames[:, :, top : top + side, left : left + side].float() / 127.5 - 1
        if side != self.size:
            frames = F.interpolate(frames, (self.size, self.size), mode="bilinear", antialias=True)
        if torch.rand((), generator=g) < 0.5:
            frames = frames.flip(-1)
        if torch.rand((), generator=g) < 0.5:
            frames = frames.flip(0)  # time reversal
        return frames.clamp(-1, 1)

    def _video(self, name: str) -> Tensor:
        if name not in self._videos:
            self._videos[name] = read_video(Path(self.root) / "videos" / name)
        return self._videos[name]
