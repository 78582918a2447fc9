"""Does a base know where things go? Its estimate of noised clips beside a cross-fade, at every noise level.

    python benchmarks/motion.py [--model FILE] [--adapter FILE] [--size 128] [--clips 32]

Prints the squared error of a single call of the model over that of a cross-fade of the clean keyframes'
latents, for the five frames between, on drawn scenes that no training saw: from high noise (only motion can
make it less than 1) to low (the noised clip itself tells where things are). Every frame is shown its nearer
keyframe unless an adapter says otherwise. Half a minute, where films' figures take many.

Legend: b clips, t frames, h w latent, H W pixels.
"""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from vfi_core.adapter import load_adapter
from vfi_core.samplers import clip_noise
from vfi_core.svd.adapted import load_modules
from vfi_core.svd.load import load_svd
from vfi_core.svd.pictures import embed, encode
from vfi_core.tiny import ADAPTERS, TINY
from vfi_core.training.estimates import estimate_clip
from vfi_core.training.procedural import procedural_clip

SIGMAS = (100.0, 60.0, 20.0, 8.0, 3.0, 1.0, 0.3)
FIRST_SEED, MOTION, AT_ONCE = 5000, 0.7, 8


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=TINY)
    parser.add_argument("--adapter", help="a bundled adapter's name, or a file")
    parser.add_argument("--size", type=int, default=128, help="pixels")
    parser.add_argument("--clips", type=int, default=32)
    args = parser.parse_args()
    svd = load_svd(args.model)
    adapter = load_adapter(Path(ADAPTERS.get(args.adapter, args.adapter))) if args.adapter else None
    modules = load_modules(svd.unet, adapter) if adapter else None
    shown = adapter.options.concat_latent if adapter else "nearest"
    t = int(svd.config["frames"])

    wrong, faded = torch.zeros(len(SIGMAS), t - 2), torch.zeros(t - 2)
    for first in range(0, args.clips, AT_ONCE):
        numbers = range(first, min(first + AT_ONCE, args.clips))
        clips = torch.stack([_scene(number, t, args.size) for number in numbers])  # [b, t, 3, H, W]
        latents = encode(svd, clips.flatten(0, 1)).unflatten(0, (-1, t))
        context = embed(svd.image_encoder, clips[:, 0]).unsqueeze(1)
        way = torch.linspace(0, 1, t).view(-1, 1, 1, 1)
        faded += _error(torch.lerp(latents[:, :1], latents[:, -1:], way), latents)
        noise = torch.stack([clip_noise(t, *latents.shape[-2:], seed=number) for number in numbers])
        for i, level in enumerate(SIGMAS):
            sigma = torch.full((len(numbers),), level)
            wrong[i] += _error(estimate_clip(svd, modules, shown, latents, context, sigma, noise), latents)
    print(f"{args.clips} drawn clips of {t} frames at {args.size}x{args.size}: error over a cross-fade's")
    for sigma, error in zip(SIGMAS, wrong, strict=True):
        frames = ", ".join(f"{share:.2f}" for share in (error / faded).tolist())
        print(f"sigma {sigma:g}: {(error.sum() / faded.sum()).item():.3f} (by frame {frames})")


def _scene(number: int, frames: int, size: int) -> Tensor:
    return procedural_clip(torch.Generator().manual_seed(FIRST_SEED + number), frames, size, motion=MOTION)


def _error(estimate: Tensor, truth: Tensor) -> Tensor:
    """Squared error of each frame between, [t - 2], summed over clips."""
    return (estimate - truth)[:, 1:-1].pow(2).mean((2, 3, 4)).sum(0)


if __name__ == "__main__":
    main()
