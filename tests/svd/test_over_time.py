"""A convolution over time alone gives the same numbers the faster way, and keeps its name and weights."""

from __future__ import annotations

import copy

import pytest

pytest.importorskip("diffusers")

import torch
from torch import nn

from tests.svd.toys import toy_svd
from vfi_core.svd.over_time import OverTime, convolve_over_time


def test_the_faster_way_is_the_same_convolution_forwards_and_backwards():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv3d(6, 4, (3, 1, 1), padding=(1, 0, 0)))
    faster = copy.deepcopy(plain)
    convolve_over_time(faster)
    assert isinstance(faster[0], OverTime) and faster.state_dict().keys() == plain.state_dict().keys()
    x = torch.randn(2, 6, 5, 3, 4)
    got, wanted = faster(x), plain(x)
    torch.testing.assert_close(got, wanted, rtol=0, atol=2e-6)  # fp32, sums in another order
    got.pow(2).sum().backward()
    wanted.pow(2).sum().backward()
    for one, other in zip(faster.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-4)


def test_other_convolutions_are_left_as_they_are():
    over_time = {"kernel_size": (3, 1, 1), "padding": (1, 0, 0)}
    others = nn.Sequential(
        nn.Conv3d(2, 2, 3, padding=1),
        nn.Conv3d(2, 2, (3, 1, 1), padding=0),
        nn.Conv3d(2, 2, **over_time, stride=(2, 1, 1)),
        nn.Conv3d(2, 2, **over_time, groups=2),
        nn.Conv3d(2, 2, **over_time, padding_mode="replicate"),
    )
    convolve_over_time(others)
    assert {type(module) for module in others} == {nn.Conv3d}


def test_a_loaded_model_convolves_over_time_the_faster_way():
    svd = toy_svd()
    for model in (svd.unet, svd.vae.decoder):
        kinds = {type(module) for module in model.modules() if isinstance(module, nn.Conv3d)}
        assert kinds == {OverTime}
