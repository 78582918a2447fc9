"""Keyframes in, the film between them out: the headless host's one path from pictures to pictures.

Legend: n keyframes, T frames of the film, t frames of a segment, H W pixels.
"""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportGeneralTypeIssues=false
# diffusers annotates only its tuple returns, and torch every submodule as Tensor | Module.

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ..clips import CLIP_SEED, Clip, draw_clips, split_into_clips
from ..decoding import lock_colours
from ..samplers import offset_seed
from ..sizes import fit, restore, working_size
from ..timeline import Timeline, even_timeline, film_of, seed_of
from ..weights import Weights
from .adapted import Modules, load_modules
from .load import SVD
from .pictures import decode
from .sample import sample_segment
from .settings import Settings, check_method

DrawSegment = Callable[[int, Tensor, Tensor, int, Callable[[], None]], Tensor]


def trained_under(svd: SVD, adapter: Weights | None) -> dict:
    """frames, fps, motion bucket ... of the model's training: the adapter's, else the base's."""
    return dict(svd.config) | (dict(adapter.training) if adapter else {})


def work(timeline: Timeline, settings: Settings, trained: dict) -> dict[int, int]:
    """Segment number -> how often `segment_drawing` reports progress while it draws that segment."""
    longest = settings.clip_frames or int(trained["frames"])
    return {
        segment.number: len(split_into_clips(segment.length - 1, longest)) * (settings.steps + 1)
        for segment in timeline.segments
    }


@torch.no_grad()
def interpolate(
    svd: SVD,
    keyframes: Sequence[Tensor],
    settings: Settings,
    adapter: Weights | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    modules: Modules | None = None,
    timeline: Timeline | None = None,
    reseeded: Mapping[int, int] = {},
) -> Tensor:
    """The film [T, H, W, 3], float32 in 0..1 on the CPU.

    keyframes  n of [H, W, 3], 0..1, all of one size; they come back exactly as they went in
    progress   called with (finished steps, all steps)
    adapter    an adapter, or other weights that teach the base in-betweening
    modules    the adapter's, where `load_modules` has built them already; many films need them once
    timeline   where the keyframes stand; ``settings.in_betweens`` in each gap by default
    reseeded   number of a segment -> its own seed
    Raises ValueError for fewer than two keyframes, unequal sizes, an adapter of another base, or one that
    does not go with the method.
    """
    if len(keyframes) < 2:
        raise ValueError(f"{len(keyframes)} keyframe given; give at least two")
    if len(sizes := {tuple(k.shape) for k in keyframes}) > 1:
        raise ValueError(f"keyframes have different shapes {sorted(sizes)}; give pictures of one size")
    trained = trained_under(svd, adapter)
    if timeline is None:
        timeline = even_timeline(len(keyframes), settings.in_betweens or int(trained["frames"]) - 2, 7.0)
    originals = torch.stack([k.to("cpu", torch.float32) for k in keyframes])
    draw = segment_drawing(svd, adapter, settings, *originals.shape[1:3], modules)
    done, total = 0, sum(work(timeline, settings, trained).values())
    progress(0, total)

    def step() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    return film_of(
        timeline,
        originals,
        lambda segment, first, last: draw(
            segment.length, first, last, seed_of(segment, settings.seed, reseeded), step
        ),
    )


def segment_drawing(
    svd: SVD,
    adapter: Weights | None,
    settings: Settings,
    height: int,
    width: int,
    modules: Modules | None = None,
) -> DrawSegment:
    """What draws a segment between two keyframes of height x width: a function

    (t, first [H, W, 3], last [H, W, 3], seed, step) -> [t, H, W, 3], float32 in 0..1 on the CPU

    the two given pictures at its ends; ``step`` is called as often as `work` says. As clips of a length that
    the model knows, see `split_into_clips`.
    Raises ValueError for an adapter of another base or method, and, while drawing, where the model overflows.
    """
    check_method(settings.method, adapter)
    trained = trained_under(svd, adapter)
    size = settings.size or working_size(height, width, tuple(trained["size"]))
    longest = settings.clip_frames or int(trained["frames"])
    if adapter is not None and modules is None:
        modules = load_modules(svd.unet, adapter)

    @torch.no_grad()
    def draw(frames: int, first: Tensor, last: Tensor, seed: int, step: Callable[[], None]) -> Tensor:
        def draw_clip(clip: Clip, first: Tensor, last: Tensor) -> Tensor:
            pictures = fit(torch.stack([first, last]).permute(0, 3, 1, 2) * 2 - 1, size)  # [2, 3, H, W]
            own_seed = offset_seed(seed, CLIP_SEED * clip.number)
            latents = sample_segment(
                svd, modules, pictures, clip.length, settings, trained, own_seed, lambda _: step()
            )
            decoded = decode(svd, latents).cpu()  # [t, 3, H, W]
            step()
            if not torch.isfinite(decoded).all():
                raise ValueError("the model overflowed; use --dtype float32, or bfloat16")
            if settings.colour_lock:
                decoded = locked(decoded, pictures)
            decoded = restore(decoded, height, width).permute(0, 2, 3, 1)
            return (decoded / 2 + 0.5).clamp(0, 1)

        return draw_clips(split_into_clips(frames - 1, longest), first, last, draw_clip)

    return draw


def locked(decoded: Tensor, pictures: Tensor) -> Tensor:
    """`lock_colours` on [t, 3, H, W] in -1..1, by the two keyframes ``pictures``."""
    film, (first, last) = (x.permute(0, 2, 3, 1) / 2 + 0.5 for x in (decoded, pictures))
    return lock_colours(film, first, last).permute(0, 3, 1, 2) * 2 - 1
