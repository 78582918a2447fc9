import copy
from dataclasses import replace

import pytest
import torch

from tests.svd.toys import toy_svd
from vfi_core.adapter import PRESETS, Adapter, Options
from vfi_core.clips import CLIP_SEED
from vfi_core.config import METHODS
from vfi_core.sizes import content_size, fit, restore, working_size
from vfi_core.svd.adapted import AdapterModules
from vfi_core.svd.interpolate import interpolate
from vfi_core.svd.settings import Settings
from vfi_core.timeline import Timeline


def pictures(count: int, height: int = 64, width: int = 64) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(2)
    return [(torch.rand(height, width, 3, generator=g) * 255).round() / 255 for _ in range(count)]


SETTINGS = Settings(in_betweens=2, steps=2)


def test_the_film_starts_and_ends_on_exactly_the_given_frames():
    given = pictures(3, 50, 70)
    film = interpolate(toy_svd(), given, SETTINGS)
    assert film.shape == (7, 50, 70, 3)
    assert film.dtype == torch.float32 and 0 <= film.min() and film.max() <= 1
    for i, picture in enumerate(given):
        assert torch.equal(film[3 * i], picture)


def test_one_seed_is_one_film_and_another_seed_another():
    given = pictures(2)
    film = interpolate(toy_svd(), given, SETTINGS)
    assert torch.equal(film, interpolate(toy_svd(), given, SETTINGS))
    assert not torch.equal(film, interpolate(toy_svd(), given, Settings(in_betweens=2, steps=2, seed=1)))


@pytest.mark.parametrize("method", METHODS[1:])
def test_a_method_of_both_directions_keeps_frames_and_seed_and_works_with_an_adapter(method):
    svd, given = toy_svd(), pictures(3, 50, 70)
    settings = replace(SETTINGS, method=method)
    film = interpolate(svd, given, settings)
    assert film.shape == (7, 50, 70, 3)
    assert all(torch.equal(film[3 * i], picture) for i, picture in enumerate(given))
    assert torch.equal(film, interpolate(svd, given, settings))
    assert not torch.equal(film[1:3], interpolate(svd, given, SETTINGS)[1:3])
    adapter = Adapter(Options(), AdapterModules(svd.unet, Options()).state_dict(), 32)
    assert torch.equal(film, interpolate(svd, given, settings, adapter))  # untrained: the base itself
    with pytest.raises(
        ValueError, match="method is 'both'; use one of held, fused, bidirectional, motion_prior"
    ):
        Settings(method="both")


def test_churn_is_another_film_of_the_same_seed_and_not_for_methods_that_have_noise_of_their_own():
    given = pictures(2)
    churned = interpolate(toy_svd(), given, replace(SETTINGS, churn=1.0))
    assert torch.equal(churned, interpolate(toy_svd(), given, replace(SETTINGS, churn=1.0)))
    assert not torch.equal(churned, interpolate(toy_svd(), given, SETTINGS))
    with pytest.raises(ValueError, match="the method bidirectional has no churn"):
        replace(SETTINGS, churn=1.0, method="bidirectional")
    with pytest.raises(ValueError, match="churn is -1"):
        replace(SETTINGS, churn=-1.0)


def test_few_in_betweens_are_thinned_out_of_a_clip_as_long_as_the_model_knows():
    given = pictures(2)
    film = interpolate(toy_svd(), given, replace(SETTINGS, in_betweens=1))
    long = interpolate(toy_svd(), given, replace(SETTINGS, in_betweens=5))
    assert len(film) == 3 and torch.equal(film, long[::3])
    exact = interpolate(toy_svd(), given, replace(SETTINGS, in_betweens=1, clip_frames=3))
    assert not torch.equal(exact, film)


def test_many_in_betweens_are_drawn_in_parts_between_frames_of_a_first_clip():
    given, seen = pictures(2), []
    settings = replace(SETTINGS, in_betweens=11)
    film = interpolate(toy_svd(), given, settings, progress=lambda done, total: seen.append(total))
    assert len(film) == 13 and seen[-1] == 3 * 3  # three clips of two steps and a decoding
    middle = interpolate(toy_svd(), given, replace(SETTINGS, in_betweens=1))[1]
    assert torch.equal(film[6], middle)  # drawn first, from the segment's own seed
    second = interpolate(toy_svd(), [middle, given[1]], replace(SETTINGS, in_betweens=5, seed=2 * CLIP_SEED))
    assert torch.equal(film[6:], second)


def test_a_timeline_of_its_own_holds_skips_and_other_seeds():
    given = pictures(3)
    timeline = Timeline((0, 3, 6), skipped=frozenset({0}))
    film = interpolate(toy_svd(), given, SETTINGS, timeline=timeline, reseeded={1: 7})
    assert all(torch.equal(frame, given[0]) for frame in film[:3])
    alone = interpolate(toy_svd(), given[1:], replace(SETTINGS, seed=7))
    assert torch.equal(film[3:], alone)


def test_locked_colours_leave_the_keyframes_and_move_the_rest_towards_them():
    given = [torch.full((64, 64, 3), value) for value in (0.2, 0.4)]
    locked = interpolate(toy_svd(), given, replace(SETTINGS, colour_lock=True))
    assert torch.equal(locked[0], given[0]) and torch.equal(locked[-1], given[1])
    free = interpolate(toy_svd(), given, SETTINGS)
    wanted = torch.tensor([0.2 + 0.2 / 3, 0.4 - 0.2 / 3])
    assert ((locked[1:3].mean((1, 2, 3)) - wanted).abs() < (free[1:3].mean((1, 2, 3)) - wanted).abs()).all()


def test_guidance_of_another_shape_is_another_film_and_an_unknown_shape_is_refused():
    given = pictures(2)
    triangle, linear = (
        interpolate(
            toy_svd(), given, Settings(in_betweens=2, steps=2, guidance=(1.0, 3.0), guidance_shape=shape)
        )
        for shape in ("triangle", "linear")
    )
    assert not torch.equal(triangle, linear)
    with pytest.raises(ValueError, match="guidance shape is 'square'; use one of triangle, linear"):
        Settings(guidance_shape="square")


def test_a_segment_depends_on_its_own_keyframes_and_seed_alone():
    given = pictures(3)
    film = interpolate(toy_svd(), given, SETTINGS)
    second = interpolate(toy_svd(), given[1:], Settings(in_betweens=2, steps=2, seed=1))
    assert torch.equal(film[3:], second)


@pytest.mark.parametrize("guidance", [(1.0, 1.0), (1.0, 3.0)], ids=["no guidance", "guidance"])
def test_an_untrained_adapter_with_the_bases_own_inputs_makes_the_bases_film(guidance):
    svd, given = toy_svd(), pictures(2)
    settings = Settings(in_betweens=2, steps=2, guidance=guidance)
    adapter = Adapter(Options(), AdapterModules(svd.unet, Options()).state_dict(), 32)
    assert torch.equal(interpolate(svd, given, settings), interpolate(svd, given, settings, adapter))


def test_the_base_is_left_as_it_was():
    svd, options = toy_svd(), PRESETS["fast"]
    before = copy.deepcopy(svd.unet.state_dict())
    modules = AdapterModules(svd.unet, options)
    path = "down_blocks.0.downsamplers.0.conv"
    tensors = {k: v for k, v in modules.state_dict().items() if not k.startswith("encoder.trunk.")}
    tensors |= {
        f"encoder.lora.{path}.lora_A.weight": torch.ones(16, 32, 3, 3),
        f"encoder.lora.{path}.lora_B.weight": torch.ones(32, 16, 1, 1),
    }
    interpolate(svd, pictures(2), SETTINGS, Adapter(options, tensors, 32))
    after = svd.unet.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_progress_counts_every_step_of_every_segment_once():
    seen = []
    interpolate(toy_svd(), pictures(3), SETTINGS, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 6) for i in range(7)]


def test_what_cannot_be_interpolated_is_refused():
    with pytest.raises(ValueError, match="1 keyframe given; give at least two"):
        interpolate(toy_svd(), pictures(1), SETTINGS)
    with pytest.raises(ValueError, match="different shapes"):
        interpolate(toy_svd(), [*pictures(1), *pictures(1, 32, 64)], SETTINGS)
    with pytest.raises(ValueError, match="in-betweens is 0"):
        Settings(in_betweens=0)
    with pytest.raises(ValueError, match="size 100x64 does not fit"):
        Settings(size=(64, 100))


@pytest.mark.parametrize(
    ("picture", "trained", "expected"),
    [
        ((1080, 1920), (576, 1024), (576, 1024)),
        ((1920, 1080), (576, 1024), (1024, 576)),
        ((256, 448), (64, 64), (64, 128)),
        ((300, 300), (64, 64), (64, 64)),
        ((10, 10), (64, 64), (64, 64)),
    ],
)
def test_the_working_size_keeps_the_aspect_in_multiples_of_64(picture, trained, expected):
    assert working_size(*picture, trained) == expected


@pytest.mark.parametrize("size", [(37, 91), (64, 64), (300, 120), (1, 1)])
def test_a_picture_that_was_fitted_comes_back_in_its_own_size(size):
    working = working_size(*size, (64, 64))
    picture = torch.linspace(-1, 1, size[1]).expand(1, 3, *size)
    fitted = fit(picture, working)
    assert fitted.shape[2:] == working
    back = restore(fitted, *size)
    assert back.shape == picture.shape
    if min(size) >= 37 and content_size(*size, working) != size:
        assert (back - picture).abs().mean() < 0.03  # a smooth ramp, resampled twice
