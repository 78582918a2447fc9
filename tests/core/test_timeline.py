"""Contract: nothing lost, nothing doubled: every keyframe stands once in the film, bit for bit and in time,
wherever it was put, whatever is skipped, in one piece or in parts.
"""

from __future__ import annotations

import random
from itertools import pairwise, product

import pytest
import torch

from vfi_core.timeline import (
    Timeline,
    check_reseeded,
    even_timeline,
    film_frames,
    film_of,
    parse_positions,
    parse_reseed,
    resampled_timeline,
    seed_of,
    timed_timeline,
)

KEYFRAMES = range(2, 10)
MULTIPLIERS = range(2, 17)
RATES = (23.976, 24.0, 25.0, 29.97, 30.0, 48.0, 50.0, 59.94, 60.0)


def pictures(count: int, first: int = 0) -> torch.Tensor:
    """Keyframes that tell which they are, [n, 1, 2, 3]: channel 0 is their number."""
    return torch.tensor([[first + i, -1.0, 0.0] for i in range(count)]).expand(1, 2, count, 3).movedim(2, 0)


def draw(segment, first, last) -> torch.Tensor:
    """Frames that tell where they belong: (gap, frame of the segment, 1); the ends must not be shown."""
    told = torch.tensor([[segment.number, i, 1.0] for i in range(segment.length)])
    assert first[0, 0, 0] == segment.number  # between the right keyframes
    told[[0, -1]] = -9.0
    return told[:, None, None, :].expand(-1, 1, 2, -1)


def told(timeline: Timeline) -> list[tuple[float, ...]]:
    """The film as what its frames tell."""
    keyframes = pictures(len(timeline.positions), timeline.begins)
    return [tuple(frame[0, 0].tolist()) for frame in film_frames(timeline, keyframes, draw)]


def expected(timeline: Timeline) -> list[tuple[float, ...]]:
    """The film frame by frame, from positions and skips alone."""
    stops = [
        *timeline.positions,
        *([] if timeline.closing is None else [timeline.positions[-1] + timeline.closing]),
    ]
    film: list[tuple[float, ...]] = []
    for gap, (a, b) in enumerate(pairwise(stops)):
        number = timeline.begins + gap
        film.append((number, -1.0, 0.0))
        held = gap in timeline.skipped
        film += [(number, -1.0, 0.0) if held else (number, i, 1.0) for i in range(1, b - a)]
    if timeline.closing is None:
        film.append((timeline.begins + len(timeline.positions) - 1, -1.0, 0.0))
    return film[1:] if timeline.begins else film


def laws(timeline: Timeline) -> None:
    film = told(timeline)
    assert film == expected(timeline)
    assert len(film) == timeline.frames
    keyframes = pictures(len(timeline.positions), timeline.begins)
    whole = film_of(timeline, keyframes, draw)
    shown = keyframes[1:] if timeline.begins else keyframes
    assert torch.equal(whole[list(timeline.shown)], shown)
    drawn = [frame for frame in film if frame[2]]
    assert len(drawn) == len(set(drawn)) == sum(s.length - 2 for s in timeline.segments)


@pytest.mark.parametrize(("loop", "skips"), list(product((False, True), ("none", "some", "all"))))
def test_an_even_film_has_every_frame_once_at_every_multiplier(loop: bool, skips: str):
    for keyframes, multiplier in product(KEYFRAMES, MULTIPLIERS):
        gaps = range(keyframes - 1 + loop)
        skipped = {"none": [], "some": gaps[1::2], "all": gaps}[skips]
        timeline = even_timeline(keyframes, multiplier - 1, 7.0, loop, frozenset(skipped))
        assert timeline.frames == (keyframes * multiplier if loop else (keyframes - 1) * multiplier + 1)
        laws(timeline)


@pytest.mark.parametrize(("source", "target"), [(s, t) for s, t in product(RATES, RATES) if t > s])
@pytest.mark.parametrize("loop", [False, True])
def test_a_resampled_film_lasts_as_long_and_has_every_keyframe_in_time(
    source: float, target: float, loop: bool
):
    for keyframes in (*KEYFRAMES, 49):
        try:
            timeline = resampled_timeline(keyframes, source, target, loop, frozenset({0}))
        except ValueError as error:  # 24 to 25: nothing to add for half a second
            steps = keyframes - 1 + loop
            assert "no frame between" in str(error) and round(steps * target / source) == steps
            continue
        laws(timeline)
        for i, position in enumerate(timeline.positions):
            assert abs(position / target - i / source) <= 0.5 / target + 1e-9
        if not loop:
            times = [i / source for i in range(keyframes)]
            assert timeline == timed_timeline(times, target, skipped=frozenset({0}))


def test_uneven_places_skips_and_loops_in_any_mixture():
    chance = random.Random(0)
    for _ in range(300):
        positions = (0, *sorted(chance.sample(range(1, 60), chance.randint(1, 8))))
        closing = chance.choice([None, 1, 2, 7])
        gaps = len(positions) - 1 + (closing is not None)
        skipped = frozenset(chance.sample(range(gaps), chance.randint(0, gaps)))
        try:
            timeline = Timeline(positions, closing, skipped=skipped)
        except ValueError as error:
            assert "no frame between" in str(error)
            continue
        laws(timeline)


@pytest.mark.parametrize("rates", [None, (23.976, 60.0), (24.0, 25.0), (25.0, 59.94)])
def test_a_film_in_parts_is_the_whole_film(rates: tuple[float, float] | None):
    """Parts overlap by one keyframe, which the later part does not show again; seeds go on, too."""

    def timeline(count: int, first: int) -> Timeline:
        skipped = frozenset(gap - first for gap in (3, 11, 30) if 0 <= gap - first < count - 1)
        if rates is None:
            return even_timeline(count, 4, 7.0, False, skipped, first)
        return resampled_timeline(count, *rates, False, skipped, first)

    whole = timeline(49, 0)
    seeds = {s.number: seed_of(s, 5) for s in whole.segments}
    for size in (2, 3, 7, 24, 48):
        film: list[tuple[float, ...]] = []
        for first in range(0, 48, size):
            if first == 0 and rates == (24.0, 25.0) and size < 24:
                break  # nothing to fill in a first part so short
            part = timeline(min(size, 48 - first) + 1, first)
            laws(part)
            assert all(seeds[s.number] == seed_of(s, 5) for s in part.segments)
            film += told(part)
        else:
            assert film == told(whole)


def test_frames_of_uneven_times_are_shown_at_them():
    times = [0.0, 0.04, 0.1, 0.11, 0.115, 0.3]  # three nearly at once
    timeline = timed_timeline(times, 50.0)
    assert timeline.positions == (0, 2, 5, 6, 7, 15)  # the third of them one frame late, the next in time
    with pytest.raises(ValueError, match="20 fps is less than the keyframes' 50"):
        timed_timeline([i / 50 for i in range(9)], 20.0)


def test_keyframes_are_read_one_ahead():
    timeline, read = even_timeline(9, 2, 7.0), []

    def stream():
        for i in range(9):
            read.append(i)
            yield pictures(1, i)[0]

    for i, _ in enumerate(film_frames(timeline, stream(), draw)):
        assert len(read) <= i // 3 + 2


def test_a_loop_ends_where_it_began_without_showing_it_twice():
    timeline = even_timeline(3, 2, 7.0, loop=True)
    last = timeline.segments[-1]
    assert (last.first, last.last) == (2, 0) and last.start + last.length - 1 == timeline.frames


def test_a_seed_of_its_own_changes_one_segment_and_no_other():
    timeline = even_timeline(5, 2, 7.0, skipped=frozenset({1}))
    before = [seed_of(s, 10) for s in timeline.segments]
    assert before == [10, 12, 13]  # a skipped gap keeps its seed
    assert [seed_of(s, 10, parse_reseed("2: 77")) for s in timeline.segments] == [10, 77, 13]
    check_reseeded(timeline, {2: 77})
    with pytest.raises(ValueError, match="gap 1 was given a seed .* .use one of 0..3"):
        check_reseeded(timeline, {1: 77})


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (lambda: Timeline((0,)), "give at least two"),
        (lambda: Timeline((1, 4)), "starts with it at 0"),
        (lambda: Timeline((0, 4, 4)), "must increase"),
        (lambda: Timeline((0, 1, 2)), "no frame between"),
        (lambda: Timeline((0, 4), closing=0), "closes after 0"),
        (lambda: Timeline((0, 4), fps=0.0), "more than 0"),
        (lambda: Timeline((0, 4, 8), skipped=frozenset({2})), "no gap 2 to skip .use 0..1"),
        (lambda: Timeline((0, 4), begins=-1), "number is -1"),
        (lambda: Timeline((0, 4), closing=2, begins=3), "drawn whole"),
        (lambda: even_timeline(2, 0, 7.0), "at least 1"),
        (lambda: resampled_timeline(3, 24, 12), "adds none"),
        (lambda: resampled_timeline(3, 0, 12), "more than 0"),
        (lambda: timed_timeline([0.0, 1.0], 0.0), "more than 0"),
        (lambda: parse_positions("0, a", 2), "no frame numbers"),
        (lambda: parse_positions("0, 4, 9", 2), "one for each"),
        (lambda: parse_reseed("2"), "'2' gives no gap another seed"),
        (lambda: parse_reseed(f"2: {2**64}"), "gives no gap another seed"),
        (
            lambda: film_of(Timeline((0, 6)), torch.zeros(2, 4, 4, 3), lambda *_: torch.zeros(6, 4, 4, 3)),
            "segment 0 has frames of shape .6, 4, 4, 3., its place in the film is .7, 4, 4, 3.",
        ),
    ],
)
def test_what_cannot_be_is_refused(action, words: str):
    with pytest.raises(ValueError, match=words):
        action()
