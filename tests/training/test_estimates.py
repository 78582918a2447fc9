"""A decoder learns from a base's estimates, the same to the last bit whoever makes them."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("peft")

import torch
from torch import Tensor

from tests.svd.toys import toy_svd
from tests.training.scenes import FORKED
from tests.training.toy_run import quiet
from vfi_core.svd.pictures import encode
from vfi_core.training.clips_config import ClipsConfig
from vfi_core.training.estimates import FilmEstimates
from vfi_core.training.recipes import EstimatesConfig, VAERecipe
from vfi_core.training.tiny_vae import VAEConfig, build_vae, train_vae

FROZEN: dict[str, Any] = {"freeze_encoder": True, "crop_clips": 2, "crop_frames": 3, "clips": 1, "frames": 5}


@dataclass(frozen=True)
class Shades:
    """Clips that brighten, from a seed."""

    workers: int = 0
    fingerprint: str = "shades"

    @property
    def config(self) -> SimpleNamespace:
        return SimpleNamespace(workers=self.workers)

    def draw(self, seed: int, step: int, batch: int, frames: int) -> Tensor:
        g = torch.Generator().manual_seed(1000 * seed + step)
        coarse = torch.rand(batch, 1, 3, 8, 8, generator=g) * 2 - 1
        pictures = torch.nn.functional.interpolate(coarse.flatten(0, 1), (64, 64), mode="bilinear")
        way = torch.linspace(0.3, 1, frames).view(1, -1, 1, 1, 1)
        return pictures.unflatten(0, (batch, 1)) * way


def estimates(
    share: float = 1.0, levels: tuple[float, float] = (1.0, 12.0), workers: int = 0
) -> FilmEstimates:
    return FilmEstimates(toy_svd(), None, Shades(workers), share, levels)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_keyframes_are_the_encoders_and_what_lies_between_an_estimate():
    clips = Shades().draw(1, 0, 2, 5)
    own = encode(toy_svd(), clips.flatten(0, 1), 10).unflatten(0, (2, 5))
    estimate = estimates().estimate(clips, generator())
    assert torch.equal(estimate[:, [0, -1]], own[:, [0, -1]])
    assert (estimate[:, 1:-1] - own[:, 1:-1]).abs().mean() > 0.1
    assert torch.equal(estimates(share=0).estimate(clips, generator()), own)


def test_at_hardly_any_noise_the_estimate_is_the_truth():
    clips = Shades().draw(1, 0, 2, 5)
    own = estimates(share=0).estimate(clips, generator())
    off = [
        (estimates(levels=(level, level)).estimate(clips, generator()) - own).pow(2).mean()
        for level in (1e-3, 1e-2, 1.0)
    ]
    assert off[0] < off[1] < off[2] and off[0] < 1e-3 * own.pow(2).mean()


@FORKED
def test_what_is_made_does_not_depend_on_who_makes_it_or_where_a_run_goes_on():
    config = VAEConfig(steps=4, whole_from=0.5, crop=32, **FROZEN)
    alone = list(estimates(0.5).ahead(range(4), config))
    by_a_worker = list(estimates(0.5, workers=1).ahead(range(4), config))
    later = list(estimates(0.5).ahead(range(2, 4), config))
    assert [tuple(pictures.shape) for pictures, _, _ in alone] == [(6, 3, 32, 32)] * 2 + [(5, 3, 64, 64)] * 2
    assert [tuple(latents.shape) for _, latents, _ in alone] == [(6, 4, 4, 4)] * 2 + [(5, 4, 8, 8)] * 2
    for one, other in [*zip(alone, by_a_worker, strict=True), *zip(alone[2:], later, strict=True)]:
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1]) and one[2] == other[2]


def test_a_crop_s_latents_and_pictures_are_of_one_place():
    config = VAEConfig(steps=1, whole_from=1.0, crop=32, **FROZEN)
    pictures, latents, t = next(estimates(share=0).ahead(range(1), config))
    whole = Shades().draw(config.seed, 0, 2, 5)
    all_latents = encode(toy_svd(), whole.flatten(0, 1), 10).unflatten(0, (2, 5))
    places = [
        (first, top, left)
        for first in range(3)
        for top in range(5)
        for left in range(5)
        if torch.equal(
            all_latents[:, first : first + t, :, top : top + 4, left : left + 4].flatten(0, 1), latents
        )
    ]
    [(first, top, left)] = places
    seen = whole[:, first : first + t, :, 8 * top : 8 * top + 32, 8 * left : 8 * left + 32].flatten(0, 1)
    torch.testing.assert_close(pictures, seen, rtol=0, atol=1 / 255 + 1e-6)  # eight bits of -1..1


def test_a_decoder_learns_from_estimates_and_its_encoder_stays(tmp_path):
    torch.manual_seed(0)
    start = build_vae(VAEConfig()).state_dict()
    config = VAEConfig(steps=3, whole_from=0.7, **FROZEN)

    def trained(name: str, **how: Any) -> dict[str, Tensor]:
        (tmp_path / name).mkdir()
        args = (config, Shades(), tmp_path / name, torch.device("cpu"), quiet, start)
        return train_vae(*args, estimates(**how)).state_dict()

    one, again, other = trained("one"), trained("again"), trained("other", share=0.0)
    changed = {name for name, tensor in one.items() if not torch.equal(tensor, start[name])}
    assert changed and all(name.startswith("decoder.") for name in changed)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_a_run_goes_on_with_the_same_estimates_alone():
    one, again, shares, levels = estimates(), estimates(), estimates(0.5), estimates(levels=(1.0, 2.0))
    other = FilmEstimates(toy_svd(1), None, Shades(), 1.0, (1.0, 12.0))
    assert repr(one) == repr(again) and len({repr(e) for e in (one, shares, levels, other)}) == 4


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"share": 1.5}, "share is 1.5; use 0 to 1"),
        ({"levels": (2.0, 1.0)}, r"levels is \[2.0, 1.0\]; use \[lowest, highest\]"),
        ({"levels": (1.0,)}, r"levels is \[1.0\]; use \[lowest, highest\]"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(given: dict[str, Any], why: str):
    with pytest.raises(ValueError, match=why):
        EstimatesConfig(**given)


def test_estimates_want_an_encoder_that_stays():
    with pytest.raises(ValueError, match="set freeze_encoder"):
        VAERecipe(ClipsConfig(), VAEConfig(), estimates=EstimatesConfig(base="tiny"))
