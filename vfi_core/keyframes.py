"""Which frames are known: the mask, the known latents and the hint, the same lines for sampling and for
training.

Legend: k keyframes, t frames, h w latent; dimensions before these (...) are clips that share their positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Keyframes:
    """The given frames of one segment.

    latents    [..., k, 4, h, w]  VAE `mode()`, unscaled (not x 0.18215), in the order of their positions
    positions  k frame indices, strictly increasing, within 0..length - 1
    length     t
    Raises ValueError where these disagree.
    """

    latents: Tensor
    positions: tuple[int, ...]
    length: int

    def __post_init__(self) -> None:
        if len(self.positions) != self.latents.shape[-4]:
            raise ValueError(f"{self.latents.shape[-4]} keyframes were given {len(self.positions)} positions")
        if not self.positions:
            raise ValueError("no keyframe was given; give at least one")
        for position in self.positions:
            if not 0 <= position < self.length:
                raise ValueError(
                    f"keyframe position {position} is outside a {self.length}-frame clip "
                    f"(use 0..{self.length - 1})"
                )
        if any(b <= a for a, b in zip(self.positions, self.positions[1:], strict=False)):
            raise ValueError(f"keyframe positions {list(self.positions)} must increase without repeats")

    @property
    def first(self) -> int:
        """The first known frame: z_1 of eq. 2."""
        return self.positions[0]

    @property
    def last(self) -> int:
        """The last known frame: z_n of eq. 2."""
        return self.positions[-1]

    @property
    def known(self) -> Tensor:
        """[..., t, 4, h, w]: the keyframes' latents, zeros elsewhere (after the VAE, see CONTRIBUTING)."""
        return spread(self.latents, self.positions, self.length)

    @property
    def mask(self) -> Tensor:
        """[..., t, 1, h, w]: the paper's m (sec. 3.1), 1 on a given frame, 0 elsewhere."""
        return spread(torch.ones_like(self.latents[..., :1, :, :]), self.positions, self.length)

    @property
    def hint(self) -> Tensor:
        """[..., t, 5, h, w]: [c ; m], what the condition encoder reads (sec. 3.1)."""
        return torch.cat([self.known, self.mask], dim=-3)

    @property
    def turned(self) -> Keyframes:
        """The same clip backwards."""
        positions = tuple(self.length - 1 - position for position in reversed(self.positions))
        return Keyframes(self.latents.flip(-4), positions, self.length)


def spread(frames: Tensor, positions: tuple[int, ...], length: int) -> Tensor:
    """[..., k, c, h, w] at their positions of a clip [..., t, c, h, w] of zeros."""
    clip = frames.new_zeros(*frames.shape[:-4], length, *frames.shape[-3:])
    for frame, position in zip(frames.unbind(-4), positions, strict=True):
        clip.select(-4, position).copy_(frame)
    return clip


def concat_latent(latents: Tensor, positions: tuple[int, ...], length: int, reading: str) -> Tensor:
    """SVD's concatenated condition, [..., t, 4, h, w], unscaled.

    latents  [..., k, 4, h, w]  VAE `mode()` of the (noise-augmented) keyframes
    reading  `first`: I_1 on all frames, SVD's own; `nearest`: on each frame the keyframe nearest to it, the
             earlier of two as near; `keyframes`: each keyframe on its frame, zeros between
    """
    frames = latents.unbind(-4)
    if reading == "first":
        return torch.stack([frames[0]] * length, dim=-4)
    if reading == "nearest":
        order = [min(range(len(positions)), key=lambda k: abs(positions[k] - i)) for i in range(length)]
        return torch.stack([frames[k] for k in order], dim=-4)
    return spread(latents, positions, length)


def blend_known(x: Tensor, known: Tensor, mask: Tensor) -> Tensor:
    """``x`` [..., t, c, h, w] with ``known`` (alike) where ``mask`` [..., t, 1, h, w] is 1."""
    return torch.where(mask.bool(), known, x)
