"""Train the tiny SVD's temporal VAE: L1, image gradients and a patch discriminator on seven-frame clips.

MSE and L1 alone keep 0.4 of the sharpness of a picture in so small an autoencoder; the gradient and the
adversarial term give it back. Legend: b batch, t frames, c channels, H W pixels, h w latent.
"""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportGeneralTypeIssues=false, reportOptionalSubscript=false
# diffusers annotates only its tuple returns, and torch every submodule as Tensor | Module.

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLTemporalDecoder
from torch import Tensor, autocast, nn

from .clips import ClipSource
from .run_state import digest, load_run, save_run
from .schedule import warm_cosine

LATENT_STD = 1 / 0.18215  # what SVD's samplers expect: scaled latents of unit variance
# Brightness and two colour differences, of about unit variance in films and drawn scenes.
COLOURS = ((0.8, 0.8, 0.8), (1.8, 0.0, -1.8), (-1.5, 3.0, -1.5))


class Estimates(Protocol):
    """See `estimates.FilmEstimates`; its repr tells it from others."""

    def ahead(self, steps: Sequence[int], config: VAEConfig) -> Iterator[tuple[Tensor, Tensor, int]]:
        """Each step's pictures [b t, 3, H, W] in -1..1, the latents to decode [b t, 4, h, w], and t."""
        ...


@dataclass(frozen=True)
class VAEConfig:
    """The temporal VAE's widths and the settings of its training.

    The first width is at least 64: with 32 groups, 32 channels are normalised one by one, and the last norm
    of the
    decoder then takes away every picture's mean colour.
    """

    widths: tuple[int, ...] = (64, 64, 64, 96)
    layers: int = 1
    steps: int = 3000
    size: int = 64
    crop: int = 32  # first part: small crops of many unrelated pictures; frames of one clip teach little more
    crop_clips: int = 24
    crop_frames: int = 1
    clips: int = 2  # second part: whole clips
    frames: int = 7
    whole_from: float = 0.85  # share of the steps after which the second part begins
    judged_from: float = 0.85  # share of the steps after which the discriminator counts
    lr: float = 1.0e-3
    l1_weight: float = 0.2  # L1 and gradients alone settle on flat medians: 15.2 dB after 700 steps
    gradient_weight: float = 0.5
    sharp_from: float = 0.5  # share of the steps after which image gradients count
    kl_weight: float = 1.0e-6
    latent_noise: float = 0.0  # up to so many standard deviations on each picture's latents before decoding
    moved: float = 0.0  # share of the clips whose latents are moved before decoding, see `moved_alike`
    colour_weight: float = 0.0  # draws three channels to the mean colours of their pixels, see `mean_colours`
    freeze_encoder: bool = False  # the latents stay what they are, and with them whatever was trained on them
    adversarial_weight: float = 0.03
    ema: float = 0.998
    precision: str = "float32"  # bfloat16: half the time on a processor with matrix instructions for it
    seed: int = 1
    save_every: int = 200

    def whole(self, step: int) -> bool:
        """Whether a step is of the second part."""
        return step >= self.whole_from * self.steps

    def __post_init__(self) -> None:
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision is {self.precision!r}; use float32 or bfloat16")
        if not 0 <= self.latent_noise < math.inf:
            raise ValueError(f"latent_noise is {self.latent_noise}; use 0 or more standard deviations")
        if not 0 <= self.moved <= 1:
            raise ValueError(f"moved is {self.moved}; use a share of 0 to 1")
        if not 0 <= self.colour_weight < math.inf:
            raise ValueError(f"colour_weight is {self.colour_weight}; use 0 or more")
        if self.widths[0] < 64 or any(w % 32 for w in self.widths):
            raise ValueError(f"widths are {list(self.widths)}; use multiples of 32, the first at least 64")


def build_vae(config: VAEConfig) -> AutoencoderKLTemporalDecoder:
    """diffusers' temporal VAE in miniature: factor 8, four latent channels."""
    vae = AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * len(config.widths),
        block_out_channels=config.widths,
        layers_per_block=config.layers,
        sample_size=config.size,
        latent_channels=4,
    )
    # A posterior of unit variance around means near zero drowns the picture, and training settles on grey.
    nn.init.constant_(vae.quant_conv.bias[4:], -6.0)
    for module in vae.modules():
        # Residual branches start at zero: the picture passes through plain convolutions.
        if hasattr(module, "conv1") and hasattr(module, "conv2"):
            nn.init.zeros_(module.conv2.weight)
            nn.init.zeros_(module.conv2.bias)
        # Each frame starts by itself. Single pictures, the first part of training, never reach the outer
        # taps: left random, they cast colours over every clip.
        if isinstance(module, nn.Conv3d):
            nn.init.zeros_(module.weight[:, :, 0])
            nn.init.zeros_(module.weight[:, :, 2])
    nn.init.dirac_(vae.decoder.time_conv_out.weight)
    nn.init.zeros_(vae.decoder.time_conv_out.bias)
    return vae


def patch_discriminator() -> nn.Sequential:
    """Pictures [b, 3, H, W] -> a score per patch [b, 1, H/4, W/4]."""
    conv, norm = nn.Conv2d, nn.utils.parametrizations.spectral_norm
    return nn.Sequential(
        conv(3, 32, 4, 2, 1),
        nn.LeakyReLU(0.2),
        norm(conv(32, 64, 4, 2, 1)),
        nn.LeakyReLU(0.2),
        norm(conv(64, 96, 3, 1, 1)),
        nn.LeakyReLU(0.2),
        conv(96, 1, 3, 1, 1),
    )


def image_gradients(pictures: Tensor) -> Tensor:
    """Horizontal and vertical differences of [b, c, H, W], flattened to one vector."""
    return torch.cat([pictures.diff(dim=-1).flatten(), pictures.diff(dim=-2).flatten()])


def train_vae(
    config: VAEConfig,
    clips: ClipSource,
    out: Path,
    device: torch.device,
    log: Callable[[str], None] = print,
    start: Mapping[str, Tensor] | None = None,
    estimates: Estimates | None = None,
) -> AutoencoderKLTemporalDecoder:
    """Train (or go on training) under ``out`` and return the averaged VAE with latents of SVD's scale.

    start      the weights of a VAE trained on smaller pictures, to begin from instead of from scratch
    estimates  what a decoder learns from in place of its encoder's latents: a base's, of noised clips
    """
    torch.manual_seed(config.seed)
    vae = build_vae(config).to(device)
    if start is not None:
        vae.load_state_dict(start)
    if config.freeze_encoder:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    average = copy.deepcopy(vae).requires_grad_(False)
    critic = patch_discriminator().to(device)
    trained = [p for p in vae.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=config.lr, betas=(0.9, 0.99), weight_decay=1e-4)
    critic_optimiser = torch.optim.AdamW(critic.parameters(), lr=4e-4, betas=(0.5, 0.99))
    named = {"vae": vae, "average": average, "critic": critic}
    state = {f"{n}.{k}": v for n, module in named.items() for k, v in module.state_dict().items()}
    optimisers = {"vae": optimiser, "critic": critic_optimiser}
    path, fingerprint = out / "run.safetensors", repr((config, clips.fingerprint, digest(vae), estimates))
    first = load_run(path, state, optimisers, fingerprint)
    estimated = iter(()) if estimates is None else estimates.ahead(range(first, config.steps), config)

    began, errors = time.time(), []
    for step in range(first, config.steps):
        g = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        if estimates is None:
            real, t = _pictures(config, clips, step, g)
            latents = None
        else:
            real, latents, t = next(estimated)
        real = real.to(device)
        for group in optimiser.param_groups:
            group["lr"] = config.lr * warm_cosine(step, config.steps, 100)

        with autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            held = torch.zeros((), device=device)  # what holds the latents where they are wanted
            if latents is not None:
                latents = latents.to(device)
            else:
                posterior = vae.encode(real).latent_dist
                noise = torch.randn(posterior.mean.shape, generator=g).to(device)
                latents = posterior.mean + posterior.std * noise
                colours = posterior.mean[:, :3].float() / LATENT_STD - mean_colours(real)
                held = config.kl_weight * posterior.kl().sum() / real.shape[0]
                held = held + config.colour_weight * colours.pow(2).mean()
            if config.moved:
                latents, real = moved_alike(latents, real, t, config.moved, g)
            if config.latent_noise:
                latents = latents + noise_on(latents, config.latent_noise, g)
            decoded = vae.decode(latents, num_frames=t).sample.float()
        loss = (decoded - real).pow(2).mean() + config.l1_weight * (decoded - real).abs().mean()
        if step >= config.sharp_from * config.steps:
            edges = (image_gradients(decoded) - image_gradients(real)).abs().mean()
            loss = loss + config.gradient_weight * edges
        loss = loss + held
        judged = step >= config.judged_from * config.steps
        if judged:
            critic.requires_grad_(False)
            loss = loss - config.adversarial_weight * critic(decoded).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(trained, 1.0)
        if not torch.isfinite(norm):
            raise ValueError(f"the gradient is {norm.item()} at step {step + 1}; lower lr ({config.lr})")
        optimiser.step()
        if judged:
            critic.requires_grad_(True)
            hinge = F.relu(1 - critic(real)).mean() + F.relu(1 + critic(decoded.detach())).mean()
            critic_optimiser.zero_grad(set_to_none=True)
            hinge.backward()
            critic_optimiser.step()
        decay = min(config.ema, (step + 1) / (step + 10))
        with torch.no_grad():
            for a, p in zip(average.parameters(), vae.parameters(), strict=True):
                a.lerp_(p, 1 - decay)

        errors.append((decoded.detach() - real).pow(2).mean().item())
        if (step + 1) % 50 == 0:
            psnr = 10 * math.log10(4 * len(errors[-50:]) / sum(errors[-50:]))
            left = (time.time() - began) / (step + 1 - first) * (config.steps - step - 1)
            log(f"{step + 1}/{config.steps} loss {loss.item():.4f} psnr {psnr:.2f}, {left / 60:.1f} min left")
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            save_run(path, step + 1, state, optimisers, fingerprint)
    return average if config.freeze_encoder else normalise_latents(average, clips, config, device)


def _pictures(config: VAEConfig, clips: ClipSource, step: int, g: torch.Generator) -> tuple[Tensor, int]:
    """([b t, 3, H, W] in -1..1, t) of a step."""
    if config.whole(step):
        clip = clips.draw(config.seed, step, config.clips, config.frames)
    else:
        clip = clips.draw(config.seed, step, config.crop_clips, config.crop_frames)
        clip = _crop(clip, config.crop, g)
    return clip.flatten(0, 1), clip.shape[1]


def noise_on(latents: Tensor, most: float, g: torch.Generator) -> Tensor:
    """Noise for [b, 4, h, w], each picture's of its own strength: 0 to ``most`` of each channel's deviation
    at that moment, so that larger latents do not escape it.
    """
    strength = most * torch.rand(len(latents), 1, 1, 1, generator=g)
    noise = torch.randn(latents.shape, generator=g)
    return (strength * noise).to(latents) * latents.detach().std((0, 2, 3), keepdim=True)


def mean_colours(pictures: Tensor) -> Tensor:
    """[b, 3, 8h, 8w] in -1..1 -> [b, 3, h, w]: brightness and two colour differences of every 8x8 pixels.

    Latents near them are smooth where the picture is, and a small denoiser learns them; left alone, latents
    along an edge look like noise.
    """
    return torch.einsum("ij,bjhw->bihw", pictures.new_tensor(COLOURS), F.avg_pool2d(pictures, 8))


def moved_alike(
    latents: Tensor, pictures: Tensor, frames: int, share: float, g: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Latents [b t, 4, h, w] and pictures [b t, 3, 8h, 8w], a ``share`` of the clips of ``frames`` moved,
    each by one map: a shift of up to half a latent pixel, a turn of up to 0.35 radians, a scale of 0.8 to
    1.25.

    Where moved latents decode to the moved picture, motion is a warp of latents, which a denoiser learns
    sooner (EQ-VAE, Kouzelis et al., ICML 2025; there by quarter turns and smaller pictures).
    """
    draws = torch.rand(5, len(latents) // frames, generator=g).repeat_interleave(frames, dim=1)
    moves = 2 * (draws[1:] - 0.5) * (draws[0] < share)  # [4, b t] in -1..1, 0 for a clip that stays
    angle, scale = 0.35 * moves[0], 1.25 ** moves[1]
    shift = moves[2:] / torch.tensor(latents.shape[-1:-3:-1])[:, None]
    cos, sin = angle.cos() / scale, angle.sin() / scale
    maps = torch.stack([cos, -sin, shift[0], sin, cos, shift[1]], dim=1).view(-1, 2, 3).to(pictures)

    def move(what: Tensor) -> Tensor:
        grid = F.affine_grid(maps, list(what.shape), align_corners=False)
        return F.grid_sample(what.float(), grid, "bicubic", "reflection", align_corners=False).to(what)

    return move(latents), move(pictures).clamp(-1, 1)


def _crop(clip: Tensor, side: int, g: torch.Generator) -> Tensor:
    """One random square of [b, t, 3, H, W], the same for the whole batch."""
    top, left = (int(torch.randint(0, length - side + 1, (), generator=g)) for length in clip.shape[3:])
    return clip[..., top : top + side, left : left + side]


@torch.no_grad()
def normalise_latents(
    vae: AutoencoderKLTemporalDecoder, clips: ClipSource, config: VAEConfig, device: torch.device
) -> AutoencoderKLTemporalDecoder:
    """Fold one factor into the VAE's own weights so that its latents have a standard deviation of 1 /
    0.18215; with ``colour_weight`` each channel its own, since the free one outgrows the three that are held.
    """
    clip = clips.draw(config.seed, config.steps, 32, config.frames).flatten(0, 1).to(device)
    latents = torch.cat([vae.encode(part).latent_dist.mode() for part in clip.split(16)])
    spread = latents.std((0, 2, 3)) if config.colour_weight else latents.std().expand(4)
    factor = LATENT_STD / spread  # [4]
    quant, conv_in = vae.quant_conv, vae.decoder.conv_in
    quant.weight[:4] *= factor[:, None, None, None]
    quant.bias[:4] *= factor
    quant.bias[4:] += 2 * factor.log()
    conv_in.weight /= factor[:, None, None]
    return vae
