"""Sampling on the k-diffusion contract, with the known frames held.

Legend: t frames, c channels, h w latent.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .keyframes import blend_known

RENOISING_SEED = 2_000_003  # added to a segment's seed for the noise that a method puts back
PRIOR_SHARE, PRIOR_REPEATS = 0.2, 3  # gamma and k of MPD's sequential form
INJECTIONS, INJECTED_PART = 5, 0.5  # how often reversed motion repeats a step, and in which part of them
Denoiser = Callable[[Tensor, Tensor], Tensor]  # (x [t, c, h, w], sigma []) -> x0 estimate [t, c, h, w]
Estimates = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # likewise -> (unconditional, guided) estimates


def clip_noise(frames: int, height: int, width: int, seed: int) -> Tensor:
    """The noise of one segment, [t, 4, h, w] float32 on the CPU, the same numbers in every host."""
    return torch.randn([frames, 4, height, width], generator=torch.Generator().manual_seed(seed))


def offset_seed(seed: int, by: int) -> int:
    """The seed of a later segment, or of another stream of one; beyond 2^64 - 1 it begins anew."""
    return (seed + by) % 2**64


def augmentation_noise(pictures: int, height: int, width: int, seed: int) -> Tensor:
    """The noise on a segment's concatenated condition, [k, 3, H, W] float32 on the CPU, alike in every host.

    A stream of its own: from the segment's seed its first numbers would be the latents' noise.
    """
    generator = torch.Generator().manual_seed(offset_seed(seed, 1_000_003))
    return torch.randn([pictures, 3, height, width], generator=generator)


def hold_known(
    denoiser: Denoiser, known: Tensor, mask: Tensor, noise: Tensor, clean: bool = False
) -> Denoiser:
    """A denoiser whose known frames are given, as ComfyUI's KSamplerX0Inpaint does (RePaint, eqs. 8a to 8c).

    known  [t, c, h, w]  scaled latents (VAE x 0.18215)
    mask   [t, 1, h, w]  1 where a frame is known
    noise  [t, c, h, w]  unit variance; re-noises the known frames to each sigma
    clean  leave the re-noising to the denoiser (option `known_frames = clean`)
    """

    def held(x: Tensor, sigma: Tensor) -> Tensor:
        shown = known if clean else known + sigma * noise
        return blend_known(denoiser(blend_known(x, shown, mask), sigma), known, mask)

    return held


def sample_euler(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    callback: Callable[[int], None] | None = None,
    churn: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Algorithm 2 of Karras et al. (2022) in its Euler form; ``callback`` gets each finished step's index.

    churn      S_churn, at every sigma: each of n steps goes back by min(churn / n, sqrt(2) - 1) of its sigma
    generator  of the noise for that, on the CPU
    n steps ask the denoiser n times.
    """
    gamma = min(churn / (len(sigmas) - 1), 2**0.5 - 1)
    for i, (sigma, following) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        if gamma:
            raised = sigma * (1 + gamma)
            x, sigma = _put_back(x, raised, sigma, generator), raised
        slope = (x - denoiser(x, sigma)) / sigma
        x = x + (following - sigma) * slope
        if callback is not None:
            callback(i)
    return x


def fuse_directions(forward: Denoiser, backward: Denoiser) -> Denoiser:
    """Time-reversal fusion (TRF, Feng et al., ECCV 2024) as one denoiser for any sampler.

    forward, backward  denoisers of the clip from I_1, and of the clip in reverse order from I_N

    The estimate is a cross-fade of the two, each counting 1 at its own keyframe. TRF fades the next x; a step
    of Euler is linear in the estimate, so the two agree. Its re-noising jumps are not part of a denoiser.
    Each estimate takes two U-Net calls: with Euler 2 n for n steps, 50 for 25. (TRF's one jump of 5 steps
    makes 110 of its 50 steps.)
    """

    def fused(x: Tensor, sigma: Tensor) -> Tensor:
        weight = torch.linspace(1, 0, x.shape[0], dtype=x.dtype, device=x.device).view(-1, 1, 1, 1)
        return weight * forward(x, sigma) + (1 - weight) * backward(x.flip(0), sigma).flip(0)

    return fused


def sample_bidirectional(
    forward: Estimates,
    backward: Estimates,
    x: Tensor,
    sigmas: Tensor,
    first: Tensor,
    last: Tensor,
    generator: torch.Generator,
    callback: Callable[[int], None] | None = None,
) -> Tensor:
    """ViBiDSampler (Yang et al., ICLR 2025): in-betweening with image-to-video weights as they are.

    Each step denoises the clip from the first keyframe, puts one step's noise back, and denoises the clip
    turned round from the last keyframe. Steps follow CFG++ (the direction is the unconditional branch's), and
    the far end's estimate is the keyframe itself (DDS).
    n steps take 2 n U-Net calls, 50 for 25 steps, each of two branches, with or without guidance.

    forward, backward  estimates of the clip from I_1, and of the clip in reverse order from I_N
    x                  [t, c, h, w]  scaled latents at sigmas[0]
    first, last        [c, h, w]     scaled latents of I_1 and I_N
    generator          on the CPU; draws the noise that is put back, the same numbers in every host
    callback           gets each finished step's index
    Returns [t, c, h, w], its two ends near the keyframes but not exact.
    """
    for i, (sigma, following) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        x = _double_pass(forward, backward, x, sigma, following, first, last, generator)
        if callback is not None:
            callback(i)
    return x


def sample_motion_prior(
    forward: Estimates,
    backward: Estimates,
    x: Tensor,
    sigmas: Tensor,
    first: Tensor,
    last: Tensor,
    generator: torch.Generator,
    callback: Callable[[int], None] | None = None,
) -> Tensor:
    """MPD (Jeon et al., ICLR 2026), its sequential form: `sample_bidirectional` led by the forward motion.

    Each of the first gamma n steps begins with k passes that go back without asking ``backward``: the noise
    of the clip turned round starts at the anchor a = (x_N - z_N) / sigma and takes the residuals, frame to
    frame, of the forward noise e = (x - x0) / sigma (lambda = 1 in the paper's mixture of both directions):

        eb_1 = a,  eb_j+1 = eb_j - (e_N+1-j - e_N-j)        which sums to eb = flip(e) + a - e_N
        flip(x0b) = x - sigma flip(eb) = x0 + z_N - x0_N    the forward estimate, moved to end at z_N

    Its far end is z_1, and the step's noise is put back. The ordinary double pass follows, as at every step.
    n steps take 2 n + k ceil(gamma n) U-Net calls, 65 for 25 steps, each of two branches.

    Arguments and result as of `sample_bidirectional`. The paper has no guidance here; ours is in x0.
    """
    steps = len(sigmas) - 1
    for i, (sigma, following) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        for _ in range(PRIOR_REPEATS if i < PRIOR_SHARE * steps else 0):
            unconditional, guided = forward(x, sigma)
            moved = guided + (last - guided[-1])
            x = _half_step((unconditional.flip(0), moved.flip(0)), x.flip(0), first, sigma, following).flip(0)
            x = _put_back(x, sigma, following, generator)
        x = _double_pass(forward, backward, x, sigma, following, first, last, generator)
        if callback is not None:
            callback(i)
    return x


def average_directions(forward: Denoiser, backward: Denoiser) -> Denoiser:
    """The mean of a clip's estimate and that of the clip in reverse order, as one denoiser: two calls in one.

    Generative Inbetweening averages v, of which the estimate is a linear function. (Its option of weights
    from 1 to 0 is `fuse_directions`.)
    """

    def averaged(x: Tensor, sigma: Tensor) -> Tensor:
        return (forward(x, sigma) + backward(x.flip(0), sigma).flip(0)) / 2

    return averaged


def sample_reinjecting(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    generator: torch.Generator,
    callback: Callable[[int], None] | None = None,
    injections: int = INJECTIONS,
    part: float = INJECTED_PART,
) -> Tensor:
    """Euler's steps, the first ones repeated (Wang et al., ICLR 2025, "Generative Inbetweening").

    x <- x + (sigma' - sigma) (x - D(x; sigma)) / sigma; in the first ``part`` of the steps ``injections``
    times more, after x <- x + sqrt(sigma^2 - sigma'^2) eps, so that two averaged directions come to agree.

    Of n steps the denoiser is called n + injections floor(part n) times, by the defaults 85 times for 25 and
    175 for 50; over `average_directions` that is 170 and 350 calls of the U-Net.

    x          [t, c, h, w]  scaled latents at sigmas[0]
    generator  on the CPU; draws the noise that is put back, the same numbers in every host
    callback   gets each finished step's index
    """
    repeated = int((len(sigmas) - 1) * part)
    for i, (sigma, following) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        for repeat in range(1 + (injections if i < repeated else 0)):
            if repeat:
                x = _put_back(x, sigma, following, generator)
            x = x + (following - sigma) * (x - denoiser(x, sigma)) / sigma
        if callback is not None:
            callback(i)
    return x


# Methods that take steps of their own, from either end in turn.
IN_TURN = {"bidirectional": sample_bidirectional, "motion_prior": sample_motion_prior}


def _double_pass(
    forward: Estimates,
    backward: Estimates,
    x: Tensor,
    sigma: Tensor,
    following: Tensor,
    first: Tensor,
    last: Tensor,
    generator: torch.Generator,
) -> Tensor:
    x = _half_step(forward(x, sigma), x, last, sigma, following)
    x = _put_back(x, sigma, following, generator).flip(0)
    return _half_step(backward(x, sigma), x, first, sigma, following).flip(0)


def _half_step(
    estimates: tuple[Tensor, Tensor], x: Tensor, far_end: Tensor, sigma: Tensor, following: Tensor
) -> Tensor:
    unconditional, guided = estimates
    x0 = torch.cat([guided[:-1], far_end[None]])
    return x0 + following / sigma * (x - unconditional)


def _put_back(x: Tensor, sigma: Tensor, following: Tensor, generator: torch.Generator | None) -> Tensor:
    """``x`` at the noise level ``following``, raised to ``sigma``."""
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
    return x + (sigma**2 - following**2).sqrt() * noise


def mean_guidance(low: float, high: float) -> tuple[float, float]:
    """A ramp and the ramp reversed, averaged: one number (Generative Inbetweening's 2 of 1 to 3), twice."""
    return (low + high) / 2, (low + high) / 2


def linear_guidance(frames: int, low: float, high: float) -> Tensor:
    """SVD's own ramp over a clip, [t]: ``low`` on the first frame, ``high`` on the last."""
    return torch.linspace(low, high, frames)


def triangle_guidance(frames: int, ends: float, middle: float) -> Tensor:
    """Guidance for two fixed ends, [t]: ``ends`` on the keyframes, ``middle`` half-way (the host's
    triangle).
    """
    ramp = 1 - (2 * torch.linspace(0, 1, frames) - 1).abs()
    return ends + (middle - ends) * ramp
