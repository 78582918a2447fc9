"""Convolutions over time alone: diffusers writes them as Conv3d with a kernel of 3x1x1."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class OverTime(nn.Conv3d):
    """The same convolution as one over [t, h w], which is faster on a processor."""

    def forward(self, input: Tensor) -> Tensor:
        """[b, c, t, h, w] -> [b, c, t, h, w]."""
        weight, flat = self.weight[..., 0], input.flatten(3)
        return F.conv2d(flat, weight, self.bias, padding=(1, 0)).unflatten(3, input.shape[3:])


def convolve_over_time(model: nn.Module) -> None:
    """Give every 3x1x1 convolution of ``model`` the faster way; names and weights stay."""
    for module in model.modules():
        if type(module) is nn.Conv3d and _plain(module):
            module.__class__ = OverTime


def _plain(conv: nn.Conv3d) -> bool:
    """Whether it has the one form that `OverTime` computes."""
    form = (conv.kernel_size, conv.padding, conv.stride, conv.dilation, conv.groups, conv.padding_mode)
    return form == ((3, 1, 1), (1, 0, 0), (1, 1, 1), (1, 1, 1), 1, "zeros")
