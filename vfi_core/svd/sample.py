"""Two pictures in, the latents of the clip between them out: one sampling of diffusers' SVD.

Legend: k keyframes, t frames, H W pixels, h w latent.
"""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportGeneralTypeIssues=false
# diffusers annotates only its tuple returns, and torch every submodule as Tensor | Module.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..adapter import Options
from ..attention import Sites
from ..clipspan import ClipSpan
from ..config import REVERSED, UNTOLD_GUIDANCE
from ..edm import karras_sigmas, scalings
from ..keyframes import Keyframes, blend_known, concat_latent
from ..samplers import (
    IN_TURN,
    RENOISING_SEED,
    Denoiser,
    Estimates,
    augmentation_noise,
    clip_noise,
    fuse_directions,
    hold_known,
    mean_guidance,
    offset_seed,
    sample_euler,
    sample_reinjecting,
)
from .adapted import AdapterModules, Modules, predict
from .framer import FramerModules
from .load import SVD
from .pictures import embed, encode
from .settings import GUIDANCE, Settings
from .turned import turned_denoiser

BASE_OPTIONS = Options()  # without an adapter: SVD's own concat latent and image embedding


@dataclass(frozen=True)
class Direction:
    """A clip as it is drawn one way.

    modules   of the adapter, if any
    pictures  [k, 3, H, W]  in -1..1, at the working size
    trained   what settings left at None fall back to
    noise     [k, 3, H, W]  of the augmentation, unit variance
    """

    svd: SVD
    modules: Modules | None
    keyframes: Keyframes
    pictures: Tensor
    settings: Settings
    trained: dict
    noise: Tensor

    @property
    def turned(self) -> Direction:
        """The same clip backwards, of the same noisy pictures."""
        flipped = {"pictures": self.pictures.flip(0), "noise": self.noise.flip(0)}
        return replace(self, keyframes=self.keyframes.turned, **flipped)


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
    onwards = Direction(svd, modules, keyframes, pictures, settings, trained, augmentation)
    backwards = onwards.turned
    if settings.method != "held" and positions != (0, frames - 1):
        raise ValueError(
            f"the method {settings.method} needs both ends of a clip, not frames {list(positions)}"
        )
    generator = torch.Generator().manual_seed(offset_seed(seed, RENOISING_SEED))
    if settings.method == REVERSED:
        denoiser = turned_denoiser(svd.unet, sites, _guided(onwards), _guided(backwards))
        x = sample_reinjecting(denoiser, x, sigmas, generator, callback)
    elif settings.method in IN_TURN:
        x = IN_TURN[settings.method](
            _estimates(onwards),
            _estimates(backwards),
            x,
            sigmas,
            *(keyframes.latents * scale),
            generator,
            callback,
        )
    else:
        clean = _options(modules).known_frames == "clean"
        denoiser = _guided(onwards)
        if settings.method == "fused":
            denoiser = fuse_directions(denoiser, _guided(backwards))
        held = hold_known(denoiser, keyframes.known * scale, keyframes.mask, noise, clean)
        stream = torch.Generator().manual_seed(seed)
        torch.randn(
            noise.shape, generator=stream
        )  # as `clip_noise`: churn goes on there, as in the host on a CPU
        x = sample_euler(held, x, sigmas, callback, settings.churn, stream)
    return blend_known(x / scale, keyframes.known, keyframes.mask)  # the last subtraction rounds


def _options(modules: Modules | None) -> Options:
    return modules.options if isinstance(modules, AdapterModules) else BASE_OPTIONS


def _guidance(clip: Direction, low: float, high: float) -> Tensor:
    """[t, 1, 1, 1] on the latents' device."""
    shape = GUIDANCE[clip.settings.guidance_shape](clip.keyframes.length, low, high)
    return shape.view(-1, 1, 1, 1).to(clip.keyframes.latents.device)


def _guided(clip: Direction) -> Denoiser:
    """The denoiser x [t, 4, h, w], sigma [] -> x0 [t, 4, h, w] with guidance per frame, scaled latents."""
    low, high = clip.settings.guidance or clip.trained.get("guidance") or UNTOLD_GUIDANCE
    guidance = _guidance(clip, low, high)
    rows = 1 if low == high == 1 else 2  # without guidance there is no unconditional branch
    branches = _branches(clip, rows)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        c_skip, c_out, _, _ = scalings(sigma)
        out = branches(x, sigma)
        if rows == 2:
            out = (out[0] + guidance * (out[1] - out[0]))[None]
        return c_skip * x + c_out * out[0]

    return denoise


def _estimates(clip: Direction) -> Estimates:
    """One direction of sampling in turn: (unconditional, guided) x0, guided by 1 unless asked
    otherwise.
    """
    low, high = clip.settings.guidance or (1.0, 1.0)
    guidance = _guidance(clip, low, high)
    branches = _branches(clip, 2)

    def estimates(x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        c_skip, c_out, _, _ = scalings(sigma)
        unconditional, conditional = branches(x, sigma)
        guided = unconditional + guidance * (conditional - unconditional)
        return c_skip * x + c_out * unconditional, c_skip * x + c_out * guided

    return estimates


def _branches(clip: Direction, rows: int) -> Callable[[Tensor, Tensor], Tensor]:
    """x [t, 4, h, w] (scaled latents), sigma [] -> the U-Net's F, [rows, t, 4, h, w] float32.

    rows  2: unconditional, conditional; 1: conditional alone
    """
    svd, modules, keyframes, pictures = clip.svd, clip.modules, clip.keyframes, clip.pictures
    settings, trained = clip.settings, clip.trained
    unet, options = svd.unet, _options(modules)
    weight = next(unet.parameters())
    frames, scale = keyframes.length, svd.vae.config["scaling_factor"]

    def chosen(name: str, default: float) -> float:
        value = getattr(settings, name)
        return trained.get(name, default) if value is None else value

    augmentation = chosen("augmentation", 0.02)
    augmented = (
        encode(svd, pictures + augmentation * clip.noise).to(weight.device)
        if augmentation
        else keyframes.latents
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
