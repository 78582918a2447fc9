"""Where keyframes stand in a film, the segments between them, and the film put together again.

Legend: n keyframes, T frames of the film, t frames of a segment, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from .samplers import offset_seed


@dataclass(frozen=True)
class Segment:
    """Two neighbouring keyframes and the frames between them.

    first, last  their indices among the keyframes; in a loop the last segment ends at keyframe 0
    start        the first one's frame in the film
    length       t, at least 3
    number       of its gap in the whole film: 0 from the first keyframe to the second
    """

    first: int
    last: int
    start: int
    length: int
    number: int


@dataclass(frozen=True)
class Timeline:
    """The keyframes' places in a film, or in a part of one.

    positions  n frame indices, the first 0, strictly increasing
    closing    frames from the last keyframe to the first one again, in a loop; None for a film that ends
    fps        frames a second of the film
    skipped    gaps, by the index of the keyframe before each, that are not filled: that keyframe holds
    begins     of a film drawn in parts: the index of this part's first keyframe in the whole one. Above 0 it
               is the last frame of the part before, and not shown again
    Raises ValueError for fewer than two keyframes, positions out of order, gaps that are not there.
    """

    positions: tuple[int, ...]
    closing: int | None = None
    fps: float = 7.0
    skipped: frozenset[int] = frozenset()
    begins: int = 0

    def __post_init__(self) -> None:
        if len(self.positions) < 2:
            raise ValueError(f"{len(self.positions)} keyframe given; give at least two")
        if self.positions[0] != 0:
            raise ValueError(
                f"the first keyframe is at frame {self.positions[0]}; a film starts with it at 0"
            )
        if any(b <= a for a, b in zip(self.positions, self.positions[1:], strict=False)):
            raise ValueError(f"keyframe positions {list(self.positions)} must increase without repeats")
        if self.closing is not None and self.closing < 1:
            raise ValueError(f"a loop closes after {self.closing} frames; use at least 1")
        if not self.fps > 0:
            raise ValueError(f"fps is {self.fps}; use more than 0")
        if self.begins < 0:
            raise ValueError(f"the first keyframe's number is {self.begins}; use 0 or more")
        if self.begins and self.closing is not None:
            raise ValueError("a loop goes back to its first keyframe and is drawn whole; use 0 as the first")
        if strange := sorted(gap for gap in self.skipped if not 0 <= gap < len(self.gaps)):
            raise ValueError(f"there is no gap {strange[0]} to skip (use 0..{len(self.gaps) - 1})")
        if not self.begins and all(steps == 1 for steps in self.gaps):
            raise ValueError("there is no frame between any two keyframes; ask for at least one in-between")

    @property
    def gaps(self) -> list[int]:
        """Steps from each keyframe to the next stop, the way back of a loop included."""
        steps = [b - a for a, b in zip(self.positions, self.positions[1:], strict=False)]
        return steps if self.closing is None else [*steps, self.closing]

    @property
    def frames(self) -> int:
        """T, of what is shown. A loop does not show its first keyframe again at the end."""
        return self.positions[-1] + (self.closing or 1) - bool(self.begins)

    @property
    def shown(self) -> tuple[int, ...]:
        """The keyframes' indices in what is shown."""
        return tuple(p - 1 for p in self.positions[1:]) if self.begins else self.positions

    @property
    def segments(self) -> list[Segment]:
        """What has to be filled, in order; neighbouring keyframes without a gap make no segment."""
        n = len(self.positions)
        return [
            Segment(i, (i + 1) % n, self.positions[i], steps + 1, self.begins + i)
            for i, steps in enumerate(self.gaps)
            if steps > 1 and i not in self.skipped
        ]


def even_timeline(
    keyframes: int,
    in_betweens: int,
    fps: float,
    loop: bool = False,
    skipped: frozenset[int] = frozenset(),
    begins: int = 0,
) -> Timeline:
    """``in_betweens`` generated frames in every gap."""
    if in_betweens < 1:
        raise ValueError(f"in-betweens is {in_betweens}; use at least 1")
    step = in_betweens + 1
    closing = step if loop else None
    return Timeline(tuple(i * step for i in range(keyframes)), closing, fps, skipped, begins)


def resampled_timeline(
    keyframes: int,
    source_fps: float,
    target_fps: float,
    loop: bool = False,
    skipped: frozenset[int] = frozenset(),
    begins: int = 0,
) -> Timeline:
    """Keyframes that were ``source_fps`` apart, each at the nearest frame of a film of ``target_fps``.

    Raises ValueError where that leaves nothing to fill.
    """
    if not (source_fps > 0 and target_fps > 0):
        raise ValueError(f"frame rates are {source_fps:g} and {target_fps:g}; use more than 0")
    ratio = target_fps / source_fps
    if ratio < 1:
        raise ValueError(
            f"{target_fps:g} fps is less than the keyframes' {source_fps:g}; this drops frames and adds none"
        )
    stops = [_nearest((begins + i) * ratio) for i in range(keyframes + 1)]
    closing = stops[-1] - stops[-2] if loop else None
    return Timeline(tuple(stop - stops[0] for stop in stops[:-1]), closing, target_fps, skipped, begins)


def timed_timeline(
    times: Sequence[float],
    target_fps: float,
    loop: bool = False,
    skipped: frozenset[int] = frozenset(),
) -> Timeline:
    """Keyframes at their times (seconds, the first 0), each at the nearest frame of a film of ``target_fps``.

    Of two at one frame the later one takes the next, so that none is lost; the film is in time again as soon
    as there is room. A loop closes after the mean step. Raises ValueError where most frames would have to
    wait, or nothing is left to fill.
    """
    if not target_fps > 0:
        raise ValueError(f"fps is {target_fps}; use more than 0")
    stops: list[int] = []
    for time in times:
        stops.append(max(_nearest(time * target_fps), stops[-1] + 1 if stops else 0))
    if len(times) > 1 and stops[-1] > times[-1] * target_fps + 1:
        raise ValueError(
            f"{target_fps:g} fps is less than the keyframes' {(len(times) - 1) / times[-1]:g}; this drops "
            "frames and adds none"
        )
    closing = max(1, round(stops[-1] / max(1, len(stops) - 1))) if loop else None
    return Timeline(tuple(stops), closing, target_fps, skipped)


def _nearest(place: float) -> int:
    """The nearest frame; half-way the later one, also where rounding left a little less than half."""
    return math.floor(place + 0.5 + 1e-6)


def parse_reseed(text: str) -> dict[int, int]:
    """Gap -> seed out of `2: 77, 5: 12`. Raises ValueError naming what is wrong."""
    pairs = [part.strip() for part in text.split(",") if part.strip()]
    found: dict[int, int] = {}
    for pair in pairs:
        gap, colon, seed = (part.strip() for part in pair.partition(":"))
        if not (colon and gap.isdecimal() and seed.isdecimal() and int(seed) < 2**64):
            raise ValueError(f"'{pair}' gives no gap another seed; write gap: seed, as 2: 77")
        found[int(gap)] = int(seed)
    return found


def seed_of(segment: Segment, seed: int, reseeded: Mapping[int, int] = {}) -> int:
    """A segment's own seed: the film's plus its number, or the one it was given instead."""
    return reseeded.get(segment.number, offset_seed(seed, segment.number))


def check_reseeded(timeline: Timeline, reseeded: Mapping[int, int]) -> None:
    """Raises ValueError where a seed was given to a gap that has nothing to draw."""
    numbers = {segment.number for segment in timeline.segments}
    if strange := sorted(set(reseeded) - numbers):
        raise ValueError(
            f"gap {strange[0]} was given a seed of its own and has nothing to draw (use one of "
            f"{min(numbers, default=0)}..{max(numbers, default=0)})"
        )


def parse_positions(text: str, keyframes: int) -> tuple[int, ...]:
    """Frame indices out of `0, 12, 40`. Raises ValueError naming what is wrong."""
    parts = [part for part in text.replace(",", " ").split() if part]
    if not all(part.isdecimal() for part in parts):
        raise ValueError(f"positions '{text}' are no frame numbers; write them as 0, 12, 40")
    if len(parts) != keyframes:
        raise ValueError(f"{len(parts)} positions were given for {keyframes} keyframes; give one for each")
    return tuple(int(part) for part in parts)


def film_frames(
    timeline: Timeline, keyframes: Iterable[Tensor], draw: Callable[[Segment, Tensor, Tensor], Tensor]
) -> Iterator[Tensor]:
    """The film, T frames [H, W, 3] one after the other: keyframes as they are given, held in skipped gaps.

    keyframes  n of [H, W, 3] in order, read one ahead; the first of a loop is kept
    draw       (segment, its first keyframe, its last one) -> its frames [t, H, W, 3]
    Raises ValueError where a drawn segment has not the frames its place in the film asks for.
    """
    segments = {segment.first: segment for segment in timeline.segments}
    given = iter(keyframes)
    opening = here = next(given)
    shown = 1 if timeline.begins else 0
    for gap, steps in enumerate(timeline.gaps):
        following = opening if gap == len(timeline.positions) - 1 else next(given)
        if gap in segments:
            drawn = draw(segments[gap], here, following)
            if drawn.shape != (steps + 1, *here.shape):
                raise ValueError(
                    f"segment {segments[gap].number} has frames of shape {list(drawn.shape)}, its place in "
                    f"the film is {[steps + 1, *here.shape]}"
                )
            between = drawn[1:-1]
        else:
            between = here.expand(steps - 1, *here.shape)
        yield from [here, *between][shown:]
        shown, here = 0, following
    if timeline.closing is None:
        yield here


def film_of(
    timeline: Timeline, keyframes: Tensor, draw: Callable[[Segment, Tensor, Tensor], Tensor]
) -> Tensor:
    """`film_frames` of keyframes [n, H, W, 3] as one tensor [T, H, W, 3]."""
    film = keyframes.new_empty(timeline.frames, *keyframes.shape[1:])
    for i, frame in enumerate(film_frames(timeline, keyframes, draw)):
        film[i] = frame
    return film
