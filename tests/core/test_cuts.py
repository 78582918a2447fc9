"""Contract: a new scene is a cut whatever its size and number format; motion, flashes and fades are none."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vfi_core.cuts import (
    THRESHOLD,
    InterpolationStates,
    distance,
    find_cuts,
    gap_distances,
    parse_gaps,
    signature,
    skipped_gaps,
)
from vfi_core.training.procedural import procedural_clip


def scene(seed: int, frames: int = 5, size: int = 64) -> Tensor:
    """A drawn scene [t, size, size, 3] in 0..1."""
    clip = procedural_clip(torch.Generator().manual_seed(seed), frames, size, motion=0.5)
    return clip.movedim(1, 3) / 2 + 0.5


def resized(film: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(film.movedim(3, 1), (height, width), mode="area").movedim(1, 3)


@pytest.mark.parametrize("picture", [torch.zeros(8, 8, 3), torch.ones(40, 24, 3), scene(0)[0]])
def test_identical_frames_are_never_cut(picture: Tensor):
    assert find_cuts([picture] * 4, 0) == [] and distance(signature(picture), signature(picture)) == 0


def test_a_spliced_scene_is_always_cut_and_motion_is_not():
    film = torch.cat([scene(seed) for seed in range(8)])
    assert find_cuts(film) == [4, 9, 14, 19, 24, 29, 34]
    for seed in range(7):
        pair = [scene(seed)[-1], scene(seed + 1)[0]]
        assert find_cuts(pair) == [0] and find_cuts(pair[::-1]) == [0]


def test_every_gap_between_single_pictures_of_different_scenes_is_cut():
    assert find_cuts(torch.cat([scene(seed, 2)[:1] for seed in range(5)])) == [0, 1, 2, 3]


@pytest.mark.parametrize("size", [(32, 32), (96, 160), (90, 51), (20, 30)])
def test_cuts_do_not_depend_on_the_resolution(size: tuple[int, int]):
    film = torch.cat([scene(seed, size=128) for seed in range(3)])
    assert find_cuts(resized(film, *size)) == find_cuts(film) == [4, 9]


def test_bytes_halves_and_floats_have_the_same_cuts():
    film = torch.cat([scene(seed) for seed in range(3)])
    assert find_cuts((film * 255).round().byte()) == find_cuts(film.half()) == find_cuts(film) == [4, 9]


@pytest.mark.parametrize("flash", [lambda x: x * 1.5, lambda x: x * 0 + 1, lambda x: x * 0.2])
def test_a_flash_of_one_frame_is_no_cut(flash):
    film = scene(1)
    film[2] = flash(film[2]).clamp(0, 1)
    assert find_cuts(film) == []


def test_light_alone_is_no_cut_even_between_two_frames():
    film = scene(1) * 0.6
    assert find_cuts([film[0], film[1] * 1.5]) == []
    assert find_cuts(frame * share for frame, share in zip(film, (1, 0.75, 0.5, 0.25, 0), strict=True)) == []


def test_a_film_is_read_once_and_answered_two_frames_later():
    film = torch.cat([scene(seed) for seed in range(3)])
    read: list[int] = []

    def frames():
        for i, frame in enumerate(film):
            read.append(i)
            yield frame

    for gap, far in enumerate(gap_distances(frames())):
        assert read == list(range(min(gap + 3, len(film))))
        around = film[max(0, gap - 1) : gap + 3]
        assert far == list(gap_distances(around))[min(gap, 1)]
        assert (far > THRESHOLD) == (gap in (4, 9))


def test_fewer_than_two_frames_have_no_gap():
    assert find_cuts([]) == find_cuts(scene(0)[:1]) == []


def test_states_skip_the_listed_gaps_or_all_the_others():
    assert skipped_gaps(InterpolationStates([1, 4, 99]), 6) == {1, 4}
    assert skipped_gaps(InterpolationStates([1, 4], is_skip_list=False), 6) == {0, 2, 3, 5}
    cuts = find_cuts(torch.cat([scene(0), scene(1)]))
    assert skipped_gaps(InterpolationStates(cuts), 9) == {4}


def test_any_object_that_can_be_asked_is_a_skip_list():
    assert skipped_gaps(SimpleNamespace(is_frame_skipped=lambda i: i % 2), 5) == {1, 3}


def test_gaps_are_written_as_frame_numbers():
    assert parse_gaps("3, 17", 18) == parse_gaps(" 3,17, ", 18) == [3, 17] and parse_gaps("", 0) == []


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (lambda: parse_gaps("3, x", 9), "no frame numbers"),
        (lambda: parse_gaps("-1", 9), "no frame numbers"),
        (lambda: parse_gaps("2.5", 9), "no frame numbers"),
        (lambda: parse_gaps("9", 9), "no gap behind frame 9 of 10; use 0 to 8"),
        (lambda: parse_gaps("0", 0), "give two frames"),
        (lambda: skipped_gaps([3, 17], 20), "a list does not say"),
        (lambda: find_cuts([], 1.5), "outside 0..1"),
        (lambda: find_cuts([], float("nan")), "outside 0..1"),
        (lambda: find_cuts([torch.zeros(4, 8, 8, 3)]), "is no picture"),
        (lambda: find_cuts([torch.zeros(8, 8, 4)]), "is no picture"),
    ],
)
def test_what_cannot_be_is_refused(action, words: str):
    with pytest.raises(ValueError, match=words):
        action()
