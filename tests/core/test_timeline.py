"""Contract: every keyframe stands once in the film, bit for bit, wherever it was put."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from vfi_core.timeline import (
    OVERLAP,
    WINDOW,
    Timeline,
    decode_windows,
    even_timeline,
    film_of,
    lock_colours,
    parse_positions,
    place,
    resampled_timeline,
)


@pytest.mark.parametrize(
    ("keyframes", "in_betweens", "loop"), list(product(range(2, 10), (1, 2, 5, 23), (False, True)))
)
def test_an_even_film_has_as_many_frames_as_one_counts(keyframes: int, in_betweens: int, loop: bool):
    timeline = even_timeline(keyframes, in_betweens, 7.0, loop)
    gaps = keyframes if loop else keyframes - 1
    assert timeline.frames == keyframes + gaps * in_betweens
    assert [s.length for s in timeline.segments] == [in_betweens + 2] * gaps
    assert timeline.fps == 7.0


@pytest.mark.parametrize(
    ("keyframes", "source", "target", "frames"),
    [(2, 12, 24, 3), (5, 12, 24, 9), (5, 24, 60, 11), (3, 10, 25, 6), (9, 24, 25, 9), (4, 23.976, 47.952, 7)],
)
def test_a_resampled_film_lasts_as_long_as_before(keyframes: int, source: float, target: float, frames: int):
    try:
        timeline = resampled_timeline(keyframes, source, target)
    except ValueError as error:
        assert frames == keyframes and "between" in str(error)
        return
    assert timeline.frames == frames and timeline.fps == target
    for i, position in enumerate(timeline.positions):
        assert abs(position / target - i / source) <= 0.5 / target + 1e-9


@pytest.mark.parametrize("positions", [(0, 2), (0, 1, 5), (0, 4, 5, 6, 20), (0, 7, 8)])
@pytest.mark.parametrize("closing", [None, 1, 3])
def test_keyframes_come_back_bit_for_bit_at_uneven_places(positions: tuple[int, ...], closing: int | None):
    timeline = Timeline(positions, closing)
    originals = torch.rand(len(positions), 4, 6, 3)
    film = film_of(timeline, originals)
    for segment in timeline.segments:
        place(film, segment, torch.full((segment.length, 4, 6, 3), 2.0))
    assert torch.equal(film[list(positions)], originals)
    others = [i for i in range(timeline.frames) if i not in positions]
    assert (film[others] == 2).all()


def test_a_loop_ends_where_it_began_without_showing_it_twice():
    timeline = even_timeline(3, 2, 7.0, loop=True)
    last = timeline.segments[-1]
    assert (last.first, last.last) == (2, 0) and last.start + last.length - 1 == timeline.frames


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (lambda: Timeline((0,)), "give at least two"),
        (lambda: Timeline((1, 4)), "starts with it at 0"),
        (lambda: Timeline((0, 4, 4)), "must increase"),
        (lambda: Timeline((0, 1, 2)), "no frame between"),
        (lambda: Timeline((0, 4), closing=0), "closes after 0"),
        (lambda: Timeline((0, 4), fps=0.0), "more than 0"),
        (lambda: even_timeline(2, 0, 7.0), "at least 1"),
        (lambda: resampled_timeline(3, 24, 12), "adds none"),
        (lambda: resampled_timeline(3, 0, 12), "more than 0"),
        (lambda: parse_positions("0, a", 2), "no frame numbers"),
        (lambda: parse_positions("0, 4, 9", 2), "one for each"),
        (
            lambda: place(torch.zeros(7, 4, 4, 3), Timeline((0, 6)).segments[0], torch.zeros(6, 4, 4, 3)),
            "shape",
        ),
    ],
)
def test_what_cannot_be_is_refused(action, words: str):
    with pytest.raises(ValueError, match=words):
        action()


@pytest.mark.parametrize("frames", [1, 2, 7, WINDOW, WINDOW + 1, 3 * WINDOW + 5])
def test_decode_windows_keep_every_frame_once_and_see_its_neighbours(frames: int):
    kept = []
    for seen, keep in decode_windows(frames):
        indices = list(range(frames))[seen][keep]
        kept += indices
        assert seen.start == max(0, indices[0] - OVERLAP) and seen.stop == min(
            frames, indices[-1] + 1 + OVERLAP
        )
    assert kept == list(range(frames))


def test_locked_colours_are_those_of_the_keyframes():
    first, last = torch.rand(8, 8, 3), torch.rand(8, 8, 3)
    film = torch.lerp(first, last, torch.linspace(0, 1, 5).view(-1, 1, 1, 1)) * 0.5 + 0.2
    locked = lock_colours(film, first, last)
    assert torch.allclose(locked[0], first, atol=1e-4) and torch.allclose(locked[-1], last, atol=1e-4)
    untouched = torch.lerp(first, last, torch.linspace(0, 1, 5).view(-1, 1, 1, 1))
    assert torch.allclose(lock_colours(untouched, first, last)[[0, -1]], untouched[[0, -1]], atol=1e-4)
