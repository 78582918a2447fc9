"""The shape of the clip that passes through a U-Net, for those who hook into its blocks."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ClipSpan:
    """frames t, the indices of its first and last known frame, and the latent's height and width.

    rows                rows b of the batch, needed only where tokens come (b s) t c
    attention_strength  [b] factors of keyframe attention, None for 1
    """

    frames: int
    first: int
    last: int
    height: int
    width: int
    rows: int = 1
    attention_strength: Tensor | None = None

    def positions_of(self, tokens: int) -> tuple[int, int]:
        """(h, w) of the U-Net level whose frames have this many positions. Raises ValueError if none has."""
        height, width = self.height, self.width
        while height * width > tokens and (height > 1 or width > 1):
            height, width = (height + 1) // 2, (width + 1) // 2  # a stride-2 convolution with padding 1
        if height * width != tokens:
            raise ValueError(f"{tokens} tokens fit no level of a {self.height}x{self.width} latent")
        return height, width

    def tokens_of(self, z: Tensor) -> int:
        """s of tokens that come as (b s) t c."""
        return z.shape[0] // self.rows
