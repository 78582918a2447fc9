"""What chance decides of a training step, drawn for the whole of its batch before anybody computes a part.

Legend: b clips, t frames, h w latent, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .batch import Batch


@dataclass(frozen=True)
class NoiseLaw:
    """ln sigma ~ N(mean, std^2), cut to the base's range; the share of samples that lose each condition, and
    of those whose concat latent is read as `nearest`, whatever the options say.
    """

    mean: float = 0.7
    std: float = 1.6
    drop_embedding: float = 0.1
    drop_concat: float = 0.1
    drop_both: float = 0.1
    nearest: float = 0.0


@dataclass(frozen=True)
class Draws:
    """One step's draws, on the CPU: a part of them is the same whoever computes it, in however many parts.

    sigma         [b]
    noise         [b, t, 4, h, w]  unit variance, of the scaled latents
    pixels        [b, 2, 3, H, W]  unit variance, of the conditioning noise on both pictures; None without it,
                  and where the batch's ``shown`` has it already
    no_embedding, no_concat  [b]  whether a clip loses that condition
    nearest       [b]  whether its concat latent is read as `nearest`
    """

    sigma: Tensor
    noise: Tensor
    pixels: Tensor | None
    no_embedding: Tensor
    no_concat: Tensor
    nearest: Tensor

    def part(self, chosen: slice) -> Draws:
        """Those of some of the clips, as `Batch.part`."""
        pixels = None if self.pixels is None else self.pixels[chosen]
        names = ("sigma", "noise", "no_embedding", "no_concat", "nearest")
        return replace(self, pixels=pixels, **{name: getattr(self, name)[chosen] for name in names})


def draw(
    law: NoiseLaw, batch: Batch, sigmas: tuple[float, float], augmentation: float, g: torch.Generator
) -> Draws:
    """The draws of ``batch``, which is whole.

    sigmas        (lowest, highest) of the base
    augmentation  deviation of the conditioning noise; clips that come with embeddings have it already
    """
    b = len(batch.latents)
    sigma = (law.mean + law.std * torch.randn(b, generator=g)).exp().clamp(*sigmas)
    noise = torch.randn(batch.latents.shape, generator=g)
    pixels = None
    if augmentation and batch.embeddings is None and batch.ends is not None:
        pixels = torch.randn(batch.ends.shape, generator=g)
    chance = torch.rand(b, generator=g)
    both = chance < law.drop_both
    no_embedding = both | ((chance >= law.drop_both) & (chance < law.drop_both + law.drop_embedding))
    no_concat = both | (chance >= 1 - law.drop_concat)
    nearest = torch.rand(b, generator=g) < law.nearest
    return Draws(sigma, noise, pixels, no_embedding, no_concat, nearest)
