"""Reversed motion in diffusers' U-Net: the tuned changes as modules, and one denoiser of both directions."""

from __future__ import annotations

from torch import Tensor, nn

from ..attention import Sites
from ..reversal import Maps, Reversal, keeping, reversing, turned_sites
from ..samplers import Denoiser, average_directions


def load_turned(unet: nn.Module, reversal: Reversal) -> Sites:
    """The changes of tuned weights on their base, frozen. Raises ValueError for those of another base."""
    parameters = dict(unet.named_parameters())
    base = {name: parameters[name].detach() for name in reversal.tuned if name in parameters}
    deltas = reversal.deltas(base)
    sites = turned_sites(deltas)
    sites.load_state_dict(deltas)
    first = next(unet.parameters())
    return sites.to(first.device, first.dtype).eval().requires_grad_(False)


def turned_denoiser(unet: nn.Module, sites: Sites, onwards: Denoiser, backwards: Denoiser) -> Denoiser:
    """The mean of both directions: ``onwards`` by the base as it is, ``backwards`` along its maps, rotated.

    onwards, backwards  denoisers of one clip each way, which call ``unet`` once
    """
    blocks = {path: unet.get_submodule(path) for path, _ in sites.items()}
    maps: Maps = {}

    def forward(x: Tensor, sigma: Tensor) -> Tensor:
        with keeping(blocks, maps, (0,)):  # both branches of guidance come in one batch, in one order
            return onwards(x, sigma)

    def backward(x: Tensor, sigma: Tensor) -> Tensor:
        with reversing(sites, blocks, maps, (0,)):
            return backwards(x, sigma)

    return average_directions(forward, backward)
