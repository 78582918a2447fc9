"""Training clips: windows of real films and procedural scenes, drawn from a seed and a step.

Legend: b batch, t frames, H W pixels. Every draw is a pure function of (seed, step), so that a killed run
resumes with the clips it would have seen.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .clips_config import ClipsConfig
from .films import find_films, hold_out
from .footage import look_through
from .procedural import procedural_clip
from .windows import IndexedWindows, ListedWindows

PLAIN = 0.3  # contrast of a plain scene's patterns
WITHIN = ("root", "max_corrupt", "pool", "seed", "workers", "cache")  # what no single draw depends on


class Windows(Protocol):
    def draw(self, g: torch.Generator, length: int) -> Tensor: ...


@dataclass(frozen=True)
class ClipSource:
    """Clips [b, t, 3, H, W] in -1..1, of the films under ``root`` and of procedural scenes.

    digest  of the films
    """

    config: ClipsConfig
    root: Path
    windows: Windows
    digest: str

    @property
    def settings(self) -> dict[str, Any]:
        """Everything a draw depends on, by name."""
        drawn = {k: v for k, v in dataclasses.asdict(self.config).items() if k not in WITHIN}
        return drawn | {"size": self.config.height_width, "films": self.digest}

    @property
    def fingerprint(self) -> str:
        return repr(self.settings)

    def length(self, seed: int, step: int) -> int:
        """How many frames the clips of a step have, within the configuration's range."""
        low, high = self.config.frames[0], self.config.most_frames
        g = torch.Generator().manual_seed((seed + 104_729) * 1_000_003 + step)
        return int(torch.randint(low, high + 1, (), generator=g))

    def draw(self, seed: int, step: int, batch: int, frames: int) -> Tensor:
        """The clips of one step, [b, t, 3, H, W] in -1..1."""
        g = torch.Generator().manual_seed(seed * 1_000_003 + step)
        return torch.stack([self._one(g, frames) for _ in range(batch)])

    def _one(self, g: torch.Generator, length: int) -> Tensor:
        if torch.rand((), generator=g) >= self.config.procedural:
            return self._real(g, length)
        # No draw where none is plain: such a configuration's clips do not depend on the setting.
        plain = self.config.plain and torch.rand((), generator=g) < self.config.plain
        photographed = torch.rand((), generator=g) < 0.5 and not plain
        background = self._real(g, 1)[0] if photographed else None
        height, width = self.config.height_width
        size, motion, contrast = max(height, width), self.config.motion, PLAIN if plain else 1.0
        scene = procedural_clip(g, length, size, background, motion, contrast)
        return _middle(scene, height, width)

    def _real(self, g: torch.Generator, length: int) -> Tensor:
        frames = self.windows.draw(g, length).permute(0, 3, 1, 2)
        height, width = self.config.height_width
        frames = _crop(frames, height, width, g if self.config.crops else None).float() / 127.5 - 1
        if frames.shape[2:] != (height, width):
            frames = F.interpolate(frames, (height, width), mode="bilinear", antialias=True)
        mirrored, backwards = (bool(torch.rand((), generator=g) < 0.5) for _ in range(2))
        if mirrored and self.config.flips:
            frames = frames.flip(-1)
        if backwards and self.config.reversal:
            frames = frames.flip(0)
        return frames.clamp(-1, 1)


def open_clips(
    config: ClipsConfig, root: Path, folder: Path, log: Callable[[str], None] = print
) -> ClipSource:
    """The clips of ``root`` (in place of the configuration's own), every film looked through.

    folder  where the index and the list of skipped films are kept; made only once ``root`` is understood
    Raises ValueError for films or settings that cannot be used.
    """
    layout, found = find_films(root)
    if layout == "windows" and config.stride != (1,):
        raise ValueError(f"windows.json has strides of its own; leave stride ({list(config.stride)}) out")
    films = hold_out(found, config.held_out, root)
    log(f"{root}: {len(found)} films ({layout}), {len(found) - len(films)} held out")
    footage = look_through(
        films, folder / "footage", config.workers, config.max_corrupt, log, config.held_out
    )
    if layout == "windows":
        listed = ListedWindows(root, config, [film.name for film in footage.films])
        digest = hashlib.sha256(repr((footage.digest, listed.windows)).encode()).hexdigest()[:16]
        return ClipSource(config, root, listed, digest)
    indexed = IndexedWindows(footage, config, root)
    number, used = indexed.count(config.most_frames)
    log(f"{number} windows of {config.most_frames} frames, in {used} of {len(footage.films)} films")
    return ClipSource(config, root, indexed, footage.digest)


def _crop(frames: Tensor, height: int, width: int, g: torch.Generator | None) -> Tensor:
    """A part of [t, 3, H, W] in the proportions of height x width: random in size and place, no smaller than
    height x width where the frames are not; without ``g`` the largest, from the middle.
    """
    tallest = min(frames.shape[2], frames.shape[3] * height // width)
    if g is None:
        return _middle(frames, tallest, max(1, tallest * width // height))
    tall = int(torch.randint(min(height, tallest), tallest + 1, (), generator=g))
    wide = max(1, tall * width // height)
    top = int(torch.randint(0, frames.shape[2] - tall + 1, (), generator=g))
    left = int(torch.randint(0, frames.shape[3] - wide + 1, (), generator=g))
    return frames[:, :, top : top + tall, left : left + wide]


def _middle(frames: Tensor, height: int, width: int) -> Tensor:
    top, left = (frames.shape[2] - height) // 2, (frames.shape[3] - width) // 2
    return frames[:, :, top : top + height, left : left + width]
