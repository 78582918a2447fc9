"""Where keyframes stand in a film, the segments between them, and the film put together again.

Legend: n keyframes, T frames of the film, t frames of a segment, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .keyframes import spread

WINDOW, OVERLAP = 8, 2  # frames decoded at once, neighbours seen on either side: fixed, whatever the memory


@dataclass(frozen=True)
class Segment:
    """Two neighbouring keyframes and the frames between them.

    first, last  their indices among the keyframes; in a loop the last segment ends at keyframe 0
    start        the first one's frame in the film
    length       t, at least 3
    number       0, 1, ... among the segments that have something to fill
    """

    first: int
    last: int
    start: int
    length: int
    number: int


@dataclass(frozen=True)
class Timeline:
    """The keyframes' places in a film.

    positions  n frame indices, the first 0, strictly increasing
    closing    frames from the last keyframe to the first one again, in a loop; None for a film that ends
    fps        frames a second of the film
    Raises ValueError for fewer than two keyframes, or positions out of order.
    """

    positions: tuple[int, ...]
    closing: int | None = None
    fps: float = 7.0

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
        if not self.segments:
            raise ValueError("there is no frame between any two keyframes; ask for at least one in-between")

    @property
    def frames(self) -> int:
        """T. A loop does not show its first keyframe again at the end."""
        return self.positions[-1] + (self.closing or 1)

    @property
    def segments(self) -> list[Segment]:
        """What has to be filled, in order; neighbouring keyframes without a gap make no segment."""
        stops = [*self.positions, *([] if self.closing is None else [self.positions[-1] + self.closing])]
        gaps = [(i, a, b) for i, (a, b) in enumerate(zip(stops, stops[1:], strict=False)) if b - a > 1]
        n = len(self.positions)
        return [Segment(i, (i + 1) % n, a, b - a + 1, k) for k, (i, a, b) in enumerate(gaps)]


def even_timeline(keyframes: int, in_betweens: int, fps: float, loop: bool = False) -> Timeline:
    """``in_betweens`` generated frames in every gap."""
    if in_betweens < 1:
        raise ValueError(f"in-betweens is {in_betweens}; use at least 1")
    step = in_betweens + 1
    return Timeline(tuple(i * step for i in range(keyframes)), step if loop else None, fps)


def resampled_timeline(keyframes: int, source_fps: float, target_fps: float, loop: bool = False) -> Timeline:
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
    stops = [round(i * ratio) for i in range(keyframes + 1)]
    return Timeline(tuple(stops[:-1]), stops[-1] - stops[-2] if loop else None, target_fps)


def parse_positions(text: str, keyframes: int) -> tuple[int, ...]:
    """Frame indices out of `0, 12, 40`. Raises ValueError naming what is wrong."""
    parts = [part for part in text.replace(",", " ").split() if part]
    if not all(part.isdigit() for part in parts):
        raise ValueError(f"positions '{text}' are no frame numbers; write them as 0, 12, 40")
    if len(parts) != keyframes:
        raise ValueError(f"{len(parts)} positions were given for {keyframes} keyframes; give one for each")
    return tuple(int(part) for part in parts)


def film_of(timeline: Timeline, originals: Tensor) -> Tensor:
    """The film [T, H, W, 3] with its keyframes [n, H, W, 3] in their places, bit for bit, else black."""
    return spread(originals, timeline.positions, timeline.frames)


def place(film: Tensor, segment: Segment, frames: Tensor) -> None:
    """Write the generated frames of a segment [t, H, W, 3] into a film made by `film_of`.

    Raises ValueError where their shape is not the segment's.
    """
    if frames.shape != (segment.length, *film.shape[1:]):
        raise ValueError(
            f"segment {segment.number} has frames of shape {list(frames.shape)}, its place in the film is "
            f"{[segment.length, *film.shape[1:]]}"
        )
    film[segment.start + 1 : segment.start + segment.length - 1] = frames[1:-1].to(film)


def decode_windows(frames: int) -> Iterator[tuple[slice, slice]]:
    """(frames to decode together, which of those to keep) for a temporal decoder, in order.

    Windows of 8 that see two neighbours more on either side, so that the result hangs on nothing but t.
    """
    for start in range(0, frames, WINDOW):
        low, high = max(0, start - OVERLAP), min(frames, start + WINDOW + OVERLAP)
        yield slice(low, high), slice(start - low, min(start + WINDOW, frames) - low)


def lock_colours(decoded: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """``decoded`` [t, H, W, 3] with its colours pulled onto the keyframes, [t, H, W, 3] in 0..1.

    Each channel's mean and deviation are moved so that the decoded keyframes would match the given ones
    ([H, W, 3] each), blended from the first correction to the last over the segment.
    """

    def statistics(picture: Tensor) -> tuple[Tensor, Tensor]:
        return picture.mean((0, 1)), picture.std((0, 1)).clamp_min(1e-3)

    weight = torch.linspace(0, 1, len(decoded), dtype=decoded.dtype, device=decoded.device).view(-1, 1, 1, 1)
    corrected = torch.zeros_like(decoded)
    for shown, given, share in ((decoded[0], first, 1 - weight), (decoded[-1], last, weight)):
        (mean, deviation), (wanted, spread) = statistics(shown), statistics(given.to(decoded))
        corrected += share * ((decoded - mean) * (spread / deviation) + wanted)
    return corrected.clamp(0, 1)
