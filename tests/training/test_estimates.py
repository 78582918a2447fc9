"""A decoder learns from a base's estimates, the same to the last bit whoever makes them."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("peft")

import torch
from torch import Tensor

from tests.svd.toys import toy_svd
from tests.training.scenes import FORKED
from tests.training.toy_run import Shades, quiet
from vfi_core.svd.pictures import encode
from vfi_core.training.clips_config import ClipsConfig
from vfi_core.training.estimates import FilmEstimates, check_encoder
from vfi_core.training.recipes import EstimatesConfig, VAERecipe
from vfi_core.training.tiny_vae import VAEConfig, build_vae, train_vae

FROZEN: dict[str, Any] = {"freeze_encoder": True, "crop_clips": 2, "crop_frames": 3, "clips": 1, "frames": 5}


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
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_is_made_does_not_depend_on_who_makes_it_or_where_a_run_goes_on(precision: str):
    config = VAEConfig(steps=4, whole_from=0.5, crop=32, precision=precision, **FROZEN)
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
    crops = {
        (first, top, left): all_latents[:, first : first + t, :, top : top + 4, left : left + 4].flatten(0, 1)
        for first in range(3)
        for top in range(5)
        for left in range(5)
    }
    # Made by one thread, whose sums end in other digits than this process's.
    places = [place for place, crop in crops.items() if torch.allclose(crop, latents, rtol=0, atol=1e-4)]
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


def test_other_estimates_are_another_run():
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


def test_estimates_want_an_encoder_that_stays_and_room_for_their_crops():
    tiny = EstimatesConfig(base="tiny")
    with pytest.raises(ValueError, match="set freeze_encoder"):
        VAERecipe(ClipsConfig(), VAEConfig(), estimates=tiny)
    with pytest.raises(ValueError, match="crops 3 frames of 60 pixels out of clips of 5 of 64"):
        VAERecipe(ClipsConfig(size=(64,)), VAEConfig(crop=60, **FROZEN), "vae.safetensors", tiny)


def test_a_decoder_of_other_latents_is_refused():
    svd = toy_svd()
    weights = svd.vae.state_dict()
    check_encoder(svd, weights | {"decoder.conv_in.bias": weights["decoder.conv_in.bias"] + 1}, "decoder")
    with pytest.raises(ValueError, match="other has another encoder than .*freeze_encoder"):
        check_encoder(svd, toy_svd(1).vae.state_dict(), "other")
    with pytest.raises(ValueError, match="wide does not have the widths .*decoder.conv_in.bias"):
        check_encoder(svd, weights | {"decoder.conv_in.bias": torch.zeros(3)}, "wide")


def test_a_clip_s_noise_level_does_not_follow_from_the_clip():
    class Kinds(Shades):
        """Dark or light by its generator's first number, as a clip is drawn or filmed by it."""

        def draw(self, seed: int, step: int, batch: int, frames: int) -> Tensor:
            light = torch.rand((), generator=torch.Generator().manual_seed(seed * 1_000_003 + step)) < 0.5
            return torch.full((batch, frames, 3, 64, 64), 0.5 if light else -0.5)

    class Levels(FilmEstimates):
        def estimate(self, clips: Tensor, g: torch.Generator) -> Tensor:
            seen.append((clips.mean().item() > 0, torch.rand((), generator=g).item()))
            return torch.zeros(*clips.shape[:2], 4, 8, 8)

    seen: list[tuple[bool, float]] = []
    config = VAEConfig(steps=200, whole_from=0.0, **FROZEN)
    list(Levels(toy_svd(), None, Kinds(), 1.0, (1.0, 12.0)).ahead(range(200), config))
    light, dark = ([number for is_light, number in seen if is_light is kind] for kind in (True, False))
    # Two halves of 200 even numbers: their means lie 0.04 apart by chance, 0.5 where one decides the other.
    assert abs(sum(light) / len(light) - sum(dark) / len(dark)) < 0.2
