"""Keyframes in, the film between them out: the headless host's one path from pictures to pictures.

Legend: n keyframes, t frames of a segment, H W pixels, h w latent.
"""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportGeneralTypeIssues=false
# diffusers annotates only its tuple returns, and torch every submodule as Tensor | Module.

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..adapter import Options
from ..attention import Sites
from ..clips import CLIP_SEED, Clip, draw_clips, split_into_clips
from ..clipspan import ClipSpan
from ..config import METHODS, REVERSED, UNTOLD_GUIDANCE
from ..decoding import lock_colours
from ..edm import karras_sigmas, scalings
from ..keyframes import Keyframes, blend_known, concat_latent
from ..reversal import Reversal
from ..samplers import (
    IN_TURN,
    RENOISING_SEED,
    Denoiser,
    Estimates,
    augmentation_noise,
    clip_noise,
    fuse_directions,
    hold_known,
    linear_guidance,
    mean_guidance,
    offset_seed,
    sample_euler,
    sample_reinjecting,
    triangle_guidance,
)
from ..sizes import fit, restore, working_size
from ..timeline import Timeline, even_timeline, film_of, seed_of
from ..weights import Weights
from .adapted import AdapterModules, Modules, load_modules, predict
from .framer import FramerModules
from .load import SVD
from .pictures import decode, embed, encode
from .turned import turned_denoiser

GUIDANCE = {"triangle": triangle_guidance, "linear": linear_guidance}
BASE_OPTIONS = Options()  # without an adapter: SVD's own concat latent and image embedding


@dataclass(frozen=True)
class Settings:
    """What a person may choose. None takes the adapter's value, or the base's where the adapter has none.

    in_betweens      generated frames in each gap
    steps            sampling steps
    seed             of the first segment; each following one adds 1
    guidance         (low, high); 1 is no guidance
    guidance_shape   `triangle`: low at both keyframes, high half-way; `linear`: SVD's own ramp
    fps              frames a second the motion should look like; SVD's id is fps - 1
    augmentation     deviation of the noise on the concatenated condition, in pixels of -1..1
    size             (H, W) the model works at, multiples of 64
    churn            S_churn of Karras et al. (2022): noise put back at every step, 0 for none; not for the
                     methods that put it back by themselves
    colour_lock      pull the colours of every frame onto the keyframes', see `lock_colours`
    clip_frames      frames drawn at once at most, see `split_into_clips`
    method           `held`: the mask holds both keyframes. For weights that never learned to reach the last
                     one, at twice the time: `fused`, held and cross-faded with the film from the last one
                     backwards (`fuse_directions`); `bidirectional`, from either one in turn. At 2.6 times:
                     `motion_prior`, in turn too, begun with the motion from the first (`sample_motion_prior`)
                     With the weights of a `Reversal`, and only with them: `reversed` (`sample_reinjecting`)
    """

    in_betweens: int | None = None
    steps: int = 25
    seed: int = 0
    guidance: tuple[float, float] | None = None
    guidance_shape: Literal["triangle", "linear"] = "triangle"
    fps: float | None = None
    motion_bucket_id: int | None = None
    augmentation: float | None = None
    size: tuple[int, int] | None = None
    churn: float = 0.0
    colour_lock: bool = False
    clip_frames: int | None = None
    method: Literal["held", "fused", "bidirectional", "motion_prior", "reversed"] = "held"

    def __post_init__(self) -> None:
        if self.in_betweens is not None and self.in_betweens < 1:
            raise ValueError(f"in-betweens is {self.in_betweens}; use at least 1")
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; use at least 1")
        if self.clip_frames is not None and self.clip_frames < 3:
            raise ValueError(f"clip frames is {self.clip_frames}; use at least 3")
        if self.method not in (known := (*METHODS, REVERSED)):
            raise ValueError(f"method is {self.method!r}; use one of {', '.join(known)}")
        if not 0 <= self.churn < float("inf"):
            raise ValueError(f"churn is {self.churn}; use 0 or more")
        if self.churn and self.method in (*IN_TURN, REVERSED):
            raise ValueError(f"the method {self.method} has no churn; use 0, or the method held or fused")
        if self.guidance_shape not in GUIDANCE:
            raise ValueError(f"guidance shape is {self.guidance_shape!r}; use one of {', '.join(GUIDANCE)}")
        if self.size is not None and any(s < 64 or s % 64 for s in self.size):
            raise ValueError(
                f"size {self.size[1]}x{self.size[0]} does not fit the model; use multiples of 64"
            )


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


def method_of(weights: Weights | None) -> Literal["held", "reversed"]:
    """The method for these weights where a person names none."""
    return REVERSED if isinstance(weights, Reversal) else "held"


def check_method(method: str, weights: Weights | None) -> None:
    """Refuse tuned weights with another method than theirs, and that method without them."""
    if isinstance(weights, Reversal) and method != REVERSED:
        raise ValueError(f"{weights.name} is for the method '{REVERSED}' alone, not for '{method}'")
    if method == REVERSED and not isinstance(weights, Reversal):
        raise ValueError(
            f"the method '{REVERSED}' needs the weights of Generative Inbetweening; give them as the adapter"
        )


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


@torch.no_grad()
def sample_segment(
    svd: SVD,
    modules: Modules | None,
    pictures: Tensor,
    frames: int,
    settings: Settings,
    trained: dict,
    seed: int,
    callback: Callable[[int], None] | None = None,
    positions: tuple[int, ...] | None = None,
) -> Tensor:
    """The latents of one segment, [t, 4, h, w] float32, unscaled, its known frames exact.

    pictures   [k, 3, H, W]  in -1..1, at the working size
    positions  of the pictures among the ``frames``; the first and the last by default
    trained    frames, fps, motion_bucket_id, augmentation, guidance: what settings left at None fall back to
    """
    device = next(svd.unet.parameters()).device
    scale = svd.vae.config["scaling_factor"]
    positions = (0, frames - 1) if positions is None else positions
    keyframes = Keyframes(encode(svd, pictures).to(device), positions, frames)
    noise = clip_noise(frames, *keyframes.latents.shape[2:], seed).to(device)
    sigmas = karras_sigmas(settings.steps, svd.config["sigma_min"], svd.config["sigma_max"]).to(device)
    x = noise * (1 + sigmas[0] ** 2).sqrt()  # as the host starts, and as its noise_scaling(max_denoise) says
    augmentation = augmentation_noise(len(pictures), *pictures.shape[2:], seed)
    sites, modules = (modules, None) if isinstance(modules, Sites) else (None, modules)
    if settings.method == REVERSED:
        low, high = trained.get("guidance") or UNTOLD_GUIDANCE
        settings = replace(settings, guidance=settings.guidance or mean_guidance(low, high))
    onwards = svd, modules, keyframes, pictures, settings, trained, augmentation
    backwards = svd, modules, keyframes.turned, pictures.flip(0), settings, trained, augmentation.flip(0)
    if settings.method != "held" and positions != (0, frames - 1):
        raise ValueError(
            f"the method {settings.method} needs both ends of a clip, not frames {list(positions)}"
        )
    generator = torch.Generator().manual_seed(offset_seed(seed, RENOISING_SEED))
    if settings.method == REVERSED:
        denoiser = turned_denoiser(svd.unet, sites, _guided(*onwards), _guided(*backwards))
        x = sample_reinjecting(denoiser, x, sigmas, generator, callback)
    elif settings.method in IN_TURN:
        x = IN_TURN[settings.method](
            _estimates(*onwards),
            _estimates(*backwards),
            x,
            sigmas,
            *(keyframes.latents * scale),
            generator,
            callback,
        )
    else:
        clean = _options(modules).known_frames == "clean"
        denoiser = _guided(*onwards)
        if settings.method == "fused":
            denoiser = fuse_directions(denoiser, _guided(*backwards))
        held = hold_known(denoiser, keyframes.known * scale, keyframes.mask, noise, clean)
        stream = torch.Generator().manual_seed(seed)
        torch.randn(noise.shape, generator=stream)  # as `clip_noise`: churn goes on there, as in the host
        x = sample_euler(held, x, sigmas, callback, settings.churn, stream)
    return blend_known(x / scale, keyframes.known, keyframes.mask)  # the last subtraction rounds


def _options(modules: Modules | None) -> Options:
    return modules.options if isinstance(modules, AdapterModules) else BASE_OPTIONS


def _guided(
    svd: SVD,
    modules: Modules | None,
    keyframes: Keyframes,
    pictures: Tensor,
    settings: Settings,
    trained: dict,
    noise: Tensor,
) -> Denoiser:
    """The denoiser x [t, 4, h, w], sigma [] -> x0 [t, 4, h, w] with guidance per frame, scaled latents."""
    low, high = settings.guidance or trained.get("guidance") or UNTOLD_GUIDANCE
    guidance = GUIDANCE[settings.guidance_shape](keyframes.length, low, high).view(-1, 1, 1, 1)
    guidance = guidance.to(keyframes.latents.device)
    rows = 1 if low == high == 1 else 2  # without guidance there is no unconditional branch
    branches = _branches(svd, modules, keyframes, pictures, settings, trained, noise, rows)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        c_skip, c_out, _, _ = scalings(sigma)
        out = branches(x, sigma)
        if rows == 2:
            out = (out[0] + guidance * (out[1] - out[0]))[None]
        return c_skip * x + c_out * out[0]

    return denoise


def _estimates(
    svd: SVD,
    modules: Modules | None,
    keyframes: Keyframes,
    pictures: Tensor,
    settings: Settings,
    trained: dict,
    noise: Tensor,
) -> Estimates:
    """One direction of sampling in turn: (unconditional, guided) x0, guided by 1 unless asked
    otherwise.
    """
    low, high = settings.guidance or (1.0, 1.0)
    guidance = GUIDANCE[settings.guidance_shape](keyframes.length, low, high).view(-1, 1, 1, 1)
    guidance = guidance.to(keyframes.latents.device)
    branches = _branches(svd, modules, keyframes, pictures, settings, trained, noise, 2)

    def estimates(x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        c_skip, c_out, _, _ = scalings(sigma)
        unconditional, conditional = branches(x, sigma)
        guided = unconditional + guidance * (conditional - unconditional)
        return c_skip * x + c_out * unconditional, c_skip * x + c_out * guided

    return estimates


def _branches(
    svd: SVD,
    modules: Modules | None,
    keyframes: Keyframes,
    pictures: Tensor,
    settings: Settings,
    trained: dict,
    noise: Tensor,
    rows: int,
) -> Callable[[Tensor, Tensor], Tensor]:
    """x [t, 4, h, w] (scaled latents), sigma [] -> the U-Net's F, [rows, t, 4, h, w] float32.

    noise  [k, 3, H, W] of the augmentation, unit variance
    rows   2: unconditional, conditional; 1: conditional alone
    """
    unet, options = svd.unet, _options(modules)
    weight = next(unet.parameters())
    frames, scale = keyframes.length, svd.vae.config["scaling_factor"]

    def chosen(name: str, default: float) -> float:
        value = getattr(settings, name)
        return trained.get(name, default) if value is None else value

    augmentation = chosen("augmentation", 0.02)
    augmented = (
        encode(svd, pictures + augmentation * noise).to(weight.device) if augmentation else keyframes.latents
    )
    embedded = embed(svd.image_encoder, pictures[[0, -1]]).to(weight)

    def told(share: float) -> tuple[Tensor, Tensor]:
        """One branch's concatenated latents [t, c, h, w] and tokens [n, d]; share 0 is the unconditional."""
        latents, tokens = augmented * share, embedded * share
        if isinstance(modules, FramerModules):
            return modules.shown(latents, tokens, keyframes)
        context = tokens.mean(0, keepdim=True) if options.clip_tokens == "mean" else tokens[:1]
        return concat_latent(latents, keyframes.positions, frames, options.concat_latent), context

    shares = [1.0] if rows == 1 else [0.0, 1.0]
    concat, context = (torch.stack(parts).to(weight) for parts in zip(*map(told, shares), strict=True))
    ids = torch.tensor([[chosen("fps", 7) - 1, chosen("motion_bucket_id", 127), augmentation]])

    ids = ids.to(weight.device).expand(rows, -1)  # float32 up to their sines, as c_noise: bfloat16 is 1 % off
    hint = keyframes.hint[None].to(weight.dtype) if modules else None
    hinted = torch.tensor(shares).to(weight) if options.uncond_hint == "dropped" and rows == 2 else None
    span = ClipSpan(frames, keyframes.first, keyframes.last, *keyframes.latents.shape[2:])

    def branch_outputs(x: Tensor, sigma: Tensor) -> Tensor:
        _, _, c_in, c_noise = scalings(sigma)
        shown = x * c_in
        if options.known_frames == "clean":
            shown = blend_known(shown, keyframes.known * scale, keyframes.mask)
        shown = shown.to(weight.dtype)[None].expand(rows, *x.shape)
        c_noise = c_noise.expand(rows)
        return predict(unet, modules, shown, concat, hint, c_noise, context, ids, span, hinted).float()

    return branch_outputs
