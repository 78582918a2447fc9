"""The condition encoder (paper, sec. 3.1): a copy of the U-Net's encoder that reads the masked keyframes.

Legend: b batch, t frames, c channels, h w latent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

HINT_CHANNELS = 5  # [c ; m]


class ConditionEncoder(nn.Module):
    """Stem and zero projections around a trunk, the host's own U-Net with its decoder deleted.

    trunk     f(x [(b t), 8, h, w], stem [(b t), C0, h, w], **the host's own inputs) -> the skip tensors, then
              the middle one; ``stem`` is added to conv_in's output
    channels  of those tensors, in that order
    """

    def __init__(self, trunk: nn.Module, channels: Sequence[int], operations: Any = nn) -> None:
        super().__init__()
        self.stem = operations.Conv2d(HINT_CHANNELS, channels[0], 3, padding=1)
        self.out = nn.ModuleList(operations.Conv2d(c, c, 1) for c in channels)
        self.trunk = trunk

    @torch.no_grad()
    def start_from(self, conv_in: nn.Conv2d, encoder_input: str) -> None:
        """Zero projections; a zero stem with `noisy`, and with `keyframes` conv_in's concat columns for c."""
        for layer in (self.stem, *self.out):
            for parameter in layer.parameters():
                parameter.zero_()
        if encoder_input == "keyframes":  # or the features would ignore the keyframes at step 0
            self.stem.weight[:, :4] = conv_in.weight[:, 4:8]

    def forward(self, x: Tensor | None, hint: Tensor, **inputs: Any) -> list[Tensor]:
        """Residuals for the decoder: one per skip tensor, then the middle one.

        x     [(b t), 8, h, w]  the U-Net's own input with `encoder_input = noisy`; None reads the keyframes
        alone
        hint  [(b t), 5, h, w]
        """
        if x is None:
            x = hint.new_zeros(hint.shape[0], 8, *hint.shape[2:])
        features = self.trunk(x, self.stem(hint), **inputs)
        if len(features) != len(self.out):
            raise RuntimeError(
                f"the trunk returned {len(features)} tensors, the adapter has {len(self.out)} projections"
            )
        return [project(feature) for project, feature in zip(self.out, features, strict=True)]


def residual_channels(shapes: Mapping[str, Sequence[int]]) -> list[int]:
    """Channels of a U-Net's skip tensors and its middle one, from its parameters' shapes (diffusers'
    names).
    """
    resnet, sampler = "resnets.{}.spatial_res_block.conv1.weight", "downsamplers.0.conv.weight"
    channels, block = [shapes["conv_in.weight"][0]], 0
    while (name := f"down_blocks.{block}.{resnet.format(0)}") in shapes:
        layer = 0
        while (name := f"down_blocks.{block}.{resnet.format(layer)}") in shapes:
            channels.append(shapes[name][0])
            layer += 1
        if (name := f"down_blocks.{block}.{sampler}") in shapes:
            channels.append(shapes[name][0])
        block += 1
    return [*channels, shapes[f"mid_block.{resnet.format(0)}"][0]]


def trunk_names(shapes: Mapping[str, Any]) -> list[str]:
    """Names of the parameters that the encoder copies: all but the decoder's and the output's."""
    return [n for n in shapes if not n.startswith(("up_blocks.", "conv_norm_out.", "conv_out."))]
