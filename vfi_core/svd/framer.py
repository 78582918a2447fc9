"""Framer's weights on diffusers' SVD U-Net, for the time of one call.

Legend: b rows of the batch (branches of guidance), t frames, h w latent, n tokens.
"""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# diffusers annotates only its tuple returns, and torch every submodule as Tensor | Module.

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import UNetSpatioTemporalConditionModel
from torch import Tensor
from torch.func import functional_call

from ..framer import CONV_IN, Framer, missing
from ..keyframes import Keyframes


@dataclass(frozen=True)
class FramerModules:
    """Framer beside one base U-Net.

    weights  those that differ from the base's, on its device and of its dtype; `conv_in` has nine columns
    """

    framer: Framer
    weights: dict[str, Tensor]

    def shown(self, latents: Tensor, embedded: Tensor, keyframes: Keyframes) -> tuple[Tensor, Tensor]:
        """What one branch sees beside the noise: [t, 5, h, w], latents and mask, and [2, d] tokens.

        latents   [k, 4, h, w]  VAE `mode()` of the augmented keyframes, zeros without guidance's condition
        embedded  [2, d]        of the first and the last keyframe, likewise
        """
        concat = self.framer.concat_latent(latents, keyframes.positions, keyframes.length)
        return torch.cat([concat, missing(keyframes)], dim=1), embedded

    def predict(
        self,
        unet: UNetSpatioTemporalConditionModel,
        inputs: Tensor,
        c_noise: Tensor,
        context: Tensor,
        ids: Tensor,
    ) -> Tensor:
        """The U-Net's output F, [b, t, 4, h, w], with these weights in place of the base's; it keeps its own.

        inputs  [b, t, 9, h, w]
        """
        named = {"encoder_hidden_states": context, "added_time_ids": ids}
        # No two of its weights are one; to look for such takes 20 ms a call.
        return functional_call(unet, self.weights, (inputs, c_noise), named, tie_weights=False).sample


def load_framer_modules(unet: UNetSpatioTemporalConditionModel, framer: Framer) -> FramerModules:
    """Raises ValueError for a base of other dimensions."""
    base = dict(unet.named_parameters())
    framer.check({name: weight.shape for name, weight in base.items()})
    changes = framer.changes(base) | {CONV_IN: framer.tensors[CONV_IN]}
    return FramerModules(framer, {name: weight.to(base[name]) for name, weight in changes.items()})
