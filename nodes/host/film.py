"""Keyframes in, the film between them out, in one go: the nodes' work in a row, segment by segment.

Legend: n keyframes, T frames of the film, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import comfy.utils
import torch
from torch import Tensor

from ...vfi_core.clips import CLIP_SEED, Clip, draw_clips, split_into_clips
from ...vfi_core.decoding import decode_windows, lock_colours
from ...vfi_core.keyframes import Keyframes
from ...vfi_core.samplers import offset_seed
from ...vfi_core.sizes import fit, restore
from ...vfi_core.timeline import Segment, Timeline, film_frames, seed_of
from ...vfi_core.weights import Weights
from .kept import Drawn, Frames, Same, digest
from .pictures import condition, decode, encode
from .sample import fill


@dataclass(frozen=True)
class SegmentKeyframes:
    """The keyframes of one segment, with everything the nodes behind it need.

    originals  [n, H, W, 3] of the whole film, as they came in
    pictures   [2, H', W', 3] of this segment, at the working size, in 0..1
    latents    `Keyframes` of this segment, as the model draws it
    stride     of the frames drawn only each ``stride``-th is shown, see `split_into_clips`
    training   what frames, fps, motion bucket ... fall back to
    """

    timeline: Timeline
    segment: Segment
    originals: Tensor
    pictures: Tensor
    latents: Keyframes
    stride: int = 1
    training: Mapping[str, Any] = field(default_factory=dict)

    @property
    def latent(self) -> dict[str, Any]:
        """The host's LATENT: known frames, zeros to be filled, and where (1 = fill)."""
        return {"samples": self.latents.known, "noise_mask": 1 - self.latents.mask}


def split(
    vae: Any,
    images: Tensor,
    timeline: Timeline,
    size: tuple[int, int],
    training: Mapping[str, Any],
    longest: int = 0,
) -> Iterator[SegmentKeyframes]:
    """The keyframes of one segment after the other. images [n, H, W, 3] in 0..1.

    longest  frames drawn at once, of which a shorter segment is thinned out; a longer one is drawn whole
    Raises ValueError for 1 or 2 of them.
    """
    if 0 < longest < 3:
        raise ValueError(f"clips of {longest} frames have nothing between their ends; use at least 3")
    encoded: dict[int, tuple[Tensor, Tensor]] = {}  # of the segment before: neighbours share a keyframe
    for segment in timeline.segments:
        ends = (segment.first, segment.last)
        encoded = {i: encoded[i] if i in encoded else encode_one(vae, images[i], size) for i in ends}
        pictures, latents = (torch.cat([encoded[i][part] for i in ends]) for part in (0, 1))
        stride = max(1, (longest - 1) // (segment.length - 1))
        length = 1 + stride * (segment.length - 1)
        keyframes = Keyframes(latents, (0, length - 1), length)
        yield SegmentKeyframes(timeline, segment, images, pictures, keyframes, stride, training)


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
    if len(samples) != keyframes.latents.length:
        raise ValueError(
            f"the latent holds {len(samples)} frames, the segment {keyframes.latents.length}; connect the "
            "latent of the same keyframes"
        )
    if progress is None:
        bar = comfy.utils.ProgressBar(len(list(decode_windows(len(samples)))))

        def progress() -> None:
            bar.update(1)

    frames = decode(vae, samples, progress)
    if colour_lock:
        frames = lock_colours(frames, *keyframes.pictures)
    frames = frames[:: keyframes.stride]
    height, width = keyframes.originals.shape[1:3]
    frames = restore(frames.permute(0, 3, 1, 2) * 2 - 1, height, width).permute(0, 2, 3, 1) / 2 + 0.5
    ends = keyframes.originals[[keyframes.segment.first, keyframes.segment.last]].to(frames)
    return torch.cat([ends[:1], frames[1:-1].clamp(0, 1), ends[1:]])


@dataclass(frozen=True)
class Drawing:
    """How every segment of a film is drawn; ``model`` and ``control`` as `apply_adapter` gives them.

    size     (H, W) the model works at
    cfg      (ends, middle), see `guider_of`
    longest  frames drawn at once at most, see `split_into_clips`
    """

    model: Any
    control: Any
    clip_vision: Any
    vae: Any
    training: Mapping[str, Any]
    size: tuple[int, int]
    steps: int
    cfg: tuple[float, float]
    sampler: str
    scheduler: str
    refresh: int
    colour_lock: bool
    method: str
    longest: int
    churn: float = 0.0

    def identity(self, adapter: Weights | None) -> tuple[Hashable, ...]:
        """What a segment depends on besides its keyframes, length, seed and the MODEL."""
        return (
            *(Same(one) for one in (self.clip_vision, self.vae, adapter)),
            *(self.size, self.steps, self.cfg, self.sampler, self.scheduler),
            *(self.refresh, self.colour_lock, self.method, self.longest, self.churn),
        )

    def clips(self, frames: int) -> list[Clip]:
        return split_into_clips(frames - 1, self.longest)

    def effort(self, frames: int) -> int:
        """Units of work that a segment reports to its progress bar."""
        return sum(self.steps + len(list(decode_windows(clip.length))) for clip in self.clips(frames))

    def draw(self, frames: int, first: Tensor, last: Tensor, seed: int, bar: Any) -> Tensor:
        """A segment [t, H, W, 3] between two keyframes [H, W, 3], its ends exactly these. In memory stand
        its frames and one clip.
        """
        done = bar.current

        def draw_clip(clip: Clip, first: Tensor, last: Tensor) -> Tensor:
            nonlocal done
            alone = Timeline((0, clip.length - 1))
            (keyframes,) = split(self.vae, torch.stack([first, last]), alone, self.size, self.training)
            own_seed = offset_seed(seed, CLIP_SEED * clip.number)
            positive, negative = condition(
                self.clip_vision,
                self.vae,
                keyframes.pictures,
                keyframes.latents,
                self.control,
                self.training,
                own_seed,
                refresh=self.refresh,
            )
            latent = fill(
                self.model,
                positive,
                negative,
                keyframes.latent,
                own_seed,
                self.steps,
                self.cfg,
                self.sampler,
                self.scheduler,
                self.method,
                self.churn,
                lambda step, preview: bar.update_absolute(done + step, preview=preview),
            )
            done += self.steps
            bar.update_absolute(done)
            decoded = decode_segment(self.vae, latent, keyframes, self.colour_lock, lambda: bar.update(1))
            done = bar.current
            return decoded

        return draw_clips(self.clips(frames), first, last, draw_clip)


def interpolate(
    drawing: Drawing,
    images: Tensor,
    timeline: Timeline,
    seed: int,
    reseeded: Mapping[int, int] = {},
    kept: Frames | None = None,
    drawn_by: Hashable = (),
) -> Tensor:
    """The film [T, H, W, 3] of keyframes [n, H, W, 3]. One progress bar; in memory stand film and segment.

    seed, reseeded  see `seed_of`
    kept            what was drawn before; gets this film's frames, as views of it
    drawn_by        what else than keyframes, length and seed they depend on
    """
    kept = {} if kept is None else kept
    film = images.new_empty(timeline.frames, *images.shape[1:])
    digests = [digest(image) for image in images]
    keys = {
        segment: (
            drawn_by,
            segment.length,
            seed_of(segment, seed, reseeded),
            digests[segment.first],
            digests[segment.last],
        )
        for segment in timeline.segments
    }
    for key in [key for key in kept if key not in keys.values() or not kept[key].whole]:
        del kept[key]
    bar = comfy.utils.ProgressBar(sum(drawing.effort(s.length) for s, key in keys.items() if key not in kept))

    def draw(segment: Segment, first: Tensor, last: Tensor) -> Tensor:
        key = keys[segment]
        if key in kept:
            drawn = torch.cat([first[None], kept[key].frames.to(film), last[None]])
        else:
            drawn = drawing.draw(segment.length, first, last, key[2], bar)
        start = segment.start + 1 - bool(timeline.begins)
        mine = film[start : start + segment.length - 2]
        mine.copy_(drawn[1:-1])
        kept[key] = Drawn(mine)
        return drawn

    try:
        for i, frame in enumerate(film_frames(timeline, images, draw)):
            film[i] = frame
    except BaseException:  # cancelled: what is kept must not hold on to a film that nobody gets
        kept |= {key: Drawn(one.frames.clone()) for key, one in kept.items()}
        raise
    return film
