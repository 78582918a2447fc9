"""SVD's methods as plain functions of pictures."""

from __future__ import annotations

import pytest

pytest.importorskip("diffusers", reason="needs the extra 'headless'")

import torch

from tests.svd.toys import toy_svd
from vfi_core.svd.interpolate import interpolate
from vfi_core.svd.interpolators import linear_through_vae, svd_interpolator, vae_round_trip
from vfi_core.svd.settings import Settings


def pictures(n: int, height: int = 64, width: int = 64) -> torch.Tensor:
    return torch.rand(n, height, width, 3, generator=torch.Generator().manual_seed(0))


def test_the_film_is_that_of_interpolate():
    first, last = pictures(2)
    settings = Settings(steps=1, guidance=(1, 1))
    film = interpolate(toy_svd(), [first, last], Settings(in_betweens=2, steps=1, guidance=(1, 1)))
    assert torch.equal(svd_interpolator(toy_svd(), settings, None)(first, last, 2), film)


def test_a_round_trip_keeps_size_and_range():
    film = pictures(3, 40, 56)
    restored = vae_round_trip(toy_svd(), film)
    assert restored.shape == film.shape and restored.dtype == film.dtype
    assert restored.min() >= 0 and restored.max() <= 1


def test_linear_through_the_vae_fades_between_the_keyframes_round_trips():
    first, last = pictures(2)
    fade = linear_through_vae(toy_svd())(first, last, 3)
    a, b = (vae_round_trip(toy_svd(), torch.stack([x] * 3))[1] for x in (first, last))
    assert torch.allclose(fade[1], (a + b) / 2)
    assert torch.allclose(fade[0], 0.75 * a + 0.25 * b)
