"""Keyframes in, the film between them out, in one go: the nodes' work in a row, segment by segment.

Legend: n keyframes, T frames of the film, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import comfy.utils
import torch
from torch import Tensor

from ...vfi_core.keyframes import Keyframes
from ...vfi_core.samplers import offset_seed
from ...vfi_core.sizes import fit, restore
from ...vfi_core.timeline import Segment, Timeline, decode_windows, film_of, lock_colours, place
from ...vfi_core.weights import Weights
from .apply import apply_adapter
from .pictures import condition, decode, encode
from .sample import fill


@dataclass(frozen=True)
class SegmentKeyframes:
    """The keyframes of one segment, with everything the nodes behind it need.

    originals  [n, H, W, 3] of the whole film, as they came in
    pictures   [2, H', W', 3] of this segment, at the working size, in 0..1
    latents    `Keyframes` of this segment
    training   what frames, fps, motion bucket ... fall back to
    """

    timeline: Timeline
    segment: Segment
    originals: Tensor
    pictures: Tensor
    latents: Keyframes
    training: Mapping[str, Any] = field(default_factory=dict)

    @property
    def latent(self) -> dict[str, Any]:
        """The host's LATENT: known frames, zeros to be filled, and where (1 = fill)."""
        return {"samples": self.latents.known, "noise_mask": 1 - self.latents.mask}


def split(
    vae: Any, images: Tensor, timeline: Timeline, size: tuple[int, int], training: Mapping[str, Any]
) -> Iterator[SegmentKeyframes]:
    """The keyframes of one segment after the other. images [n, H, W, 3] in 0..1."""
    encoded: dict[int, tuple[Tensor, Tensor]] = {}  # of the segment before: neighbours share a keyframe
    for segment in timeline.segments:
        ends = (segment.first, segment.last)
        encoded = {i: encoded[i] if i in encoded else encode_one(vae, images[i], size) for i in ends}
        pictures, latents = (torch.cat([encoded[i][part] for i in ends]) for part in (0, 1))
        keyframes = Keyframes(latents, (0, segment.length - 1), segment.length)
        yield SegmentKeyframes(timeline, segment, images, pictures, keyframes, training)


def encode_one(vae: Any, image: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """A keyframe at the working size [1, H', W', 3], and its latent [1, 4, h, w]."""
    fitted = fit(image.permute(2, 0, 1)[None] * 2 - 1, size).permute(0, 2, 3, 1) / 2 + 0.5
    return fitted, encode(vae, fitted)


def decode_segment(
    vae: Any,
    latent: Mapping[str, Any],
    keyframes: SegmentKeyframes,
    colour_lock: bool,
    progress: Callable[[], None] | None = None,
) -> Tensor:
    """The segment's frames [t, H, W, 3] in the keyframes' own resolution, its two keyframes exact."""
    samples = latent["samples"]
    if len(samples) != keyframes.segment.length:
        raise ValueError(
            f"the latent holds {len(samples)} frames, the segment {keyframes.segment.length}; connect the "
            "latent of the same keyframes"
        )
    if progress is None:
        bar = comfy.utils.ProgressBar(len(list(decode_windows(len(samples)))))

        def progress() -> None:
            bar.update(1)

    frames = decode(vae, samples, progress)
    if colour_lock:
        frames = lock_colours(frames, *keyframes.pictures)
    height, width = keyframes.originals.shape[1:3]
    frames = restore(frames.permute(0, 3, 1, 2) * 2 - 1, height, width).permute(0, 2, 3, 1) / 2 + 0.5
    ends = keyframes.originals[[keyframes.segment.first, keyframes.segment.last]].to(frames)
    return torch.cat([ends[:1], frames[1:-1].clamp(0, 1), ends[1:]])


def interpolate(
    model: Any,
    clip_vision: Any,
    vae: Any,
    adapter: Weights | None,
    images: Tensor,
    timeline: Timeline,
    size: tuple[int, int],
    training: Mapping[str, Any],
    seed: int,
    steps: int,
    cfg: tuple[float, float],
    sampler: str,
    scheduler: str,
    refresh: int = 1,
    colour_lock: bool = False,
    method: str = "held",
) -> Tensor:
    """The film [T, H, W, 3]. One progress bar; in memory stand the film and one segment.

    seed  of the first segment; each following one adds 1
    """
    control = None
    if adapter is not None:
        model, control = apply_adapter(model, adapter)
    work = [steps + len(list(decode_windows(s.length))) for s in timeline.segments]
    bar = comfy.utils.ProgressBar(sum(work))
    done = 0
    film = film_of(timeline, images)
    for keyframes, effort in zip(split(vae, images, timeline, size, training), work, strict=True):
        own_seed = offset_seed(seed, keyframes.segment.number)
        positive, negative = condition(
            clip_vision,
            vae,
            keyframes.pictures,
            keyframes.latents,
            control,
            training,
            own_seed,
            refresh=refresh,
        )
        latent = fill(
            model, positive, negative, keyframes.latent, own_seed, steps, cfg, sampler, scheduler, method,
            lambda step, preview, done=done: bar.update_absolute(done + step, preview=preview),
        )  # fmt: skip
        bar.update_absolute(done + steps)
        frames = decode_segment(vae, latent, keyframes, colour_lock, lambda: bar.update(1))
        place(film, keyframes.segment, frames)
        done += effort
        bar.update_absolute(done)
    return film
