"""A pool of clips, encoded once by what is frozen of a base and kept on disk.

Legend: n clips, t frames of one, f frames of all clips of a file, c features, h w latent, H W pixels.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..svd.load import SVD
from ..svd.pictures import embed, encode
from .batch import Batch
from .clips import ClipSource
from .ordered import in_order
from .run_state import digest
from .shards import Shards

DRAWN = 8  # clips of one draw: they share a length and a generator
SHARD = 256  # clips of one file
PIXELS = 1 << 20  # encoded at once


class LatentPool:
    """Encoded clips, read where they lie as they are drawn, so that a pool may be larger than memory.

    files  each a mapping (sliced like a tensor) of
           counts      [n]             frames of each clip
           latents     [f, 4, h, w]    VAE `mode()`, unscaled, of one clip after the other
           shown       [n, 2, 4, h, w] the same of both ends with noise augmentation, where there is any
           embeddings  [n, 2, c]       of both ends by a frozen image encoder, or
           ends        [n, 2, 3, H, W] uint8, the pictures for one in training
    backwards    half of the clips are drawn backwards
    """

    def __init__(
        self, files: Sequence[Mapping[str, Any]], backwards: bool = True, fingerprint: str = ""
    ) -> None:
        self.files, self.backwards, self.fingerprint = files, backwards, fingerprint
        counts = [file["counts"][:] for file in files]
        self._counts = torch.cat(counts)
        self._file = torch.repeat_interleave(torch.arange(len(files)), torch.tensor([len(c) for c in counts]))
        self._row = torch.cat([torch.arange(len(c)) for c in counts])
        self._begin = torch.cat([c.cumsum(0) - c for c in counts])
        lengths = self._counts.unique()
        self._alike = {int(t): torch.nonzero(self._counts == t).flatten() for t in lengths}

    def __len__(self) -> int:
        return len(self._counts)

    def draw(self, batch: int, g: torch.Generator, device: torch.device) -> Batch:
        """The clips of one step, of one length, half of them backwards.

        Every frame was encoded by itself, so a clip backwards is its latents backwards.
        """
        length = int(self._counts[0])
        if len(self._alike) > 1:  # each length as often as there are clips of it
            length = int(self._counts[torch.randint(len(self), (), generator=g)])
        alike = self._alike[length]
        chosen = alike[torch.randint(len(alike), (batch,), generator=g)].tolist()
        turned = ((torch.rand(batch, generator=g) < 0.5) & self.backwards).tolist()
        clips = [self._clip(i, backwards) for i, backwards in zip(chosen, turned, strict=True)]
        drawn = {name: torch.stack([clip[name] for clip in clips]) for name in clips[0]}
        return Batch(**drawn).to(device)

    def _clip(self, index: int, backwards: bool) -> dict[str, Tensor]:
        file, row, begin = self.files[int(self._file[index])], int(self._row[index]), int(self._begin[index])
        clip = {"latents": file["latents"][begin : begin + int(self._counts[index])]}
        clip |= {name: file[name][row : row + 1][0] for name in PER_CLIP if name in file}
        clip.setdefault("shown", clip["latents"][[0, -1]])
        return {name: value.flip(0) for name, value in clip.items()} if backwards else clip


PER_CLIP = ("shown", "embeddings", "ends")


@dataclass(frozen=True)
class Crew:
    """Which of how many processes this is, and how it waits for the others."""

    rank: int
    size: int
    wait: Callable[[], None]


ALONE = Crew(0, 1, lambda: None)


@torch.no_grad()
def latent_pool(
    svd: SVD,
    clips: ClipSource,
    folder: Path,
    augmentation: float = 0.0,
    frozen: bool = True,
    log: Callable[[str], None] = print,
    crew: Crew = ALONE,
) -> LatentPool:
    """The pool of ``clips.config.pool`` clips in ``folder``, encoded now as far as it is not there yet.

    frozen        the image encoder is frozen: its embeddings of the ends are kept, else the pictures
    augmentation  with a frozen one, the deviation of the noise on the pictures that the concat latent shows,
                  in -1..1, every clip's its own; who gets the pictures adds it, another in every step
    crew          the processes that encode it together
    Raises ValueError for a folder of other settings, rather than train on stale latents, and where the disk
    has no room.
    """
    config = clips.config
    augmentation = augmentation if frozen else 0.0
    settings = {"format": "svd-vfi-pool/1", **clips.settings, "pool": config.pool, "seed": config.seed}
    settings |= {"augmentation": augmentation, "vae": digest(svd.vae)}
    settings["image_encoder"] = digest(svd.image_encoder) if frozen else "in training"
    shards = Shards(folder, settings)
    plan = _Plan(clips)
    number = -(-config.pool // SHARD)
    encoder = _Encoder(svd, plan, augmentation, frozen)
    for mine in (range(crew.rank, number, crew.size), range(number)):
        if missing := [i for i in shards.missing(number) if i in mine]:
            _make_room(folder, [plan.clips(i) for i in missing], encoder, log)
            steps = [step for i in missing for step in plan.steps(i)]
            drawn = zip(steps, in_order(plan.draw, steps, config.workers), strict=True)
            for i in missing:
                log(f"encoding clips {plan.clips(i)[0]} to {plan.clips(i)[-1]} of {config.pool}")
                parts = [encoder(step, clip) for step, clip in islice(drawn, len(plan.steps(i)))]
                shards.write(i, {name: torch.cat([part[name] for part in parts]) for name in parts[0]})
        crew.wait()  # then what is still missing: the others' share, where their disk is another
    return LatentPool([_Mapped(shards, i) for i in range(number)], config.reversal, shards.digest)


@dataclass(frozen=True)
class _Plan:
    """Which clips lie in which file, and how each is drawn. A step is the number of a draw's first clip."""

    source: ClipSource

    @property
    def seed(self) -> int:
        return self.source.config.seed + 7919

    def clips(self, file: int) -> range:
        return range(file * SHARD, min((file + 1) * SHARD, self.source.config.pool))

    def steps(self, file: int) -> range:
        return self.clips(file)[::DRAWN]

    def length(self, step: int) -> int:
        return self.source.length(self.seed, step)

    def draw(self, step: int) -> np.ndarray:
        """The clips of a step [n, t, 3, H, W] in -1..1."""
        batch = min(DRAWN, self.source.config.pool - step)
        return self.source.draw(self.seed, step, batch, self.length(step)).numpy()


@dataclass(frozen=True)
class _Encoder:
    svd: SVD
    plan: _Plan
    augmentation: float
    frozen: bool

    def __call__(self, step: int, drawn: np.ndarray) -> dict[str, Tensor]:
        """What `LatentPool` holds of the clips of one draw."""
        clips = torch.from_numpy(drawn)
        at_once = max(1, PIXELS // (clips.shape[-2] * clips.shape[-1]))
        ends = ((clips[:, [0, -1]] + 1) * 127.5).round().byte()
        pictures = ends.float() / 127.5 - 1
        kept = {
            "counts": torch.full((len(clips),), clips.shape[1]),
            "latents": encode(self.svd, clips.flatten(0, 1), at_once).half().cpu(),
        }
        if self.augmentation:
            noisy = pictures + self.augmentation * self._noise(step, pictures)
            kept["shown"] = encode(self.svd, noisy.flatten(0, 1), at_once).half().cpu().unflatten(0, (-1, 2))
        if self.frozen:
            embedded = embed(self.svd.image_encoder, pictures.flatten(0, 1))
            kept["embeddings"] = embedded.float().cpu().unflatten(0, (-1, 2))
        else:
            kept["ends"] = ends
        return kept

    def _noise(self, step: int, like: Tensor) -> Tensor:
        """Of every clip by itself, from its own number."""
        seeds = [(self.plan.seed + 15_485_863) * 1_000_003 + step + i for i in range(len(like))]
        return torch.stack(
            [torch.randn(like.shape[1:], generator=torch.Generator().manual_seed(s)) for s in seeds]
        )

    def size(self, frames: int, clips: int) -> int:
        """Bytes on disk of ``clips`` clips of ``frames`` frames together."""
        height, width = self.plan.source.config.height_width
        latent = 2 * 4 * (height // 8) * (width // 8)
        kept = 2 * latent if self.augmentation else 0
        features = 4 * self.svd.image_encoder.config.projection_dim
        return frames * latent + clips * (kept + 2 * (features if self.frozen else 3 * height * width) + 8)


def _make_room(folder: Path, clips: Sequence[range], encoder: _Encoder, log: Callable[[str], None]) -> None:
    """Say what the pool will take of the disk. Raises ValueError where that is not free."""
    count = sum(map(len, clips))
    steps = (step for part in clips for step in part[::DRAWN])
    frames = sum(encoder.plan.length(step) * DRAWN for step in steps)
    needed, free = encoder.size(frames, count), shutil.disk_usage(folder).free
    log(f"encoding {count} clips into {folder}: {needed / 1e9:.2f} GB, {free / 1e9:.1f} GB are free")
    if needed > free:
        raise ValueError(
            f"{folder} has {free / 1e9:.2f} GB free and the pool takes {needed / 1e9:.2f} GB; lower pool "
            f"({encoder.plan.source.config.pool}) or give another cache"
        )


class _Mapped(Mapping[str, Any]):
    """A file of the pool, its tensors sliced where they lie."""

    def __init__(self, shards: Shards, index: int) -> None:
        self._file, _ = shards.open(index)
        self._names = list(self._file.keys())
        self._slices = {name: self._file.get_slice(name) for name in self._names}

    def __getitem__(self, name: str) -> Any:
        return self._slices[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
