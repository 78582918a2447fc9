"""What one training step is given of its clips, whole or a process's share of it.

Legend: b clips, t frames, c features, h w latent, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Clips as the frozen parts of a base see them; what a trainable image encoder reads comes as pictures.

    latents     [b, t, 4, h, w]  VAE `mode()`, unscaled
    shown       [b, 2, 4, h, w]  the same of the first and the last picture as the concat latent shows them:
                noise-augmented in pixel space where the base was trained so
    embeddings  [b, 2, c]        the image encoder's, of both; None where it is being trained
    ends        [b, 2, 3, H, W]  both pictures, uint8; None where their embeddings are there
    """

    latents: Tensor
    shown: Tensor
    embeddings: Tensor | None = None
    ends: Tensor | None = None

    def part(self, chosen: slice) -> Batch:
        """Some of its clips: a process's share, or one of several accumulated."""
        return replace(self, **{k: v[chosen] for k, v in self._tensors().items()})

    def to(self, device: torch.device) -> Batch:
        """The same on ``device``, all but pictures in float32."""
        moved = {k: v.to(device) for k, v in self._tensors().items()}
        return replace(self, **{k: v if v.dtype == torch.uint8 else v.float() for k, v in moved.items()})

    @property
    def pictures(self) -> Tensor | None:
        """``ends`` in -1..1."""
        return None if self.ends is None else self.ends.float() / 127.5 - 1

    def _tensors(self) -> dict[str, Any]:
        """Those that are there."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}
