"""How many frames the model draws at once: a gap of any length as clips of a length it knows.

Legend: n frames between two keyframes, steps = n + 1 from one keyframe to the other, t frames of a clip.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

CLIP_SEED = 3_000_017  # times a clip's number, added to its segment's seed


@dataclass(frozen=True)
class Clip:
    """One run of the model between two pictures that are known by then.

    stops   the frames of the segment it shows, its two known ends among them
    stride  frames of the model from one stop to the next: only every ``stride``-th is shown
    number  0, 1, ... within the segment
    """

    stops: tuple[int, ...]
    stride: int
    number: int

    @property
    def length(self) -> int:
        """t, both ends included."""
        return 1 + self.stride * (len(self.stops) - 1)


def split_into_clips(steps: int, longest: int) -> list[Clip]:
    """The clips of a segment of ``steps`` + 1 frames, each ready once those before it are drawn.

    longest  frames the model was trained on: 25 for svd_xt, 14 for svd. Few in-betweens are drawn as part of
             the longest clip, at most that, in which they lie evenly: of 25 frames, every fourth for five
             in-betweens. So for every number up to 23 the model draws 14 to 25 frames. A longer segment is
             cut into the fewest equal parts that fit, or, where that is more than one clip shows, into equal
             parts that are cut again; a clip of the cuts alone is drawn before its parts.
    Raises ValueError for fewer than two steps, or a longest clip below 3 frames.
    """
    if steps < 2:
        raise ValueError(f"{steps} steps from one keyframe to the next leave nothing to draw; use at least 2")
    if longest < 3:
        raise ValueError(f"clips of {longest} frames have nothing between their ends; use at least 3")
    most = longest - 1

    def plan(start: int, steps: int) -> list[tuple[int, tuple[int, ...]]]:  # stride, stops
        if steps <= most:
            return [(most // steps, tuple(range(start, start + steps + 1)))] if steps > 1 else []
        parts = -(-steps // most)
        while parts > most:  # more cuts than one clip shows: cut its parts again
            parts = -(-parts // most)
        cuts = [start + round(k * steps / parts) for k in range(parts + 1)]
        inner = [plan(a, b - a) for a, b in zip(cuts, cuts[1:], strict=False)]
        return [(most // parts, tuple(cuts)), *(clip for part in inner for clip in part)]

    return [Clip(stops, stride, number) for number, (stride, stops) in enumerate(plan(0, steps))]


def draw_clips(
    clips: list[Clip], first: Tensor, last: Tensor, draw: Callable[[Clip, Tensor, Tensor], Tensor]
) -> Tensor:
    """The segment's frames [steps + 1, H, W, 3], the two given pictures [H, W, 3] at its ends.

    draw  (clip, its first picture, its last one) -> all t frames of the clip [t, H, W, 3]
    """
    frames = {0: first, max(clip.stops[-1] for clip in clips): last}
    for clip in clips:
        drawn = draw(clip, frames[clip.stops[0]], frames[clip.stops[-1]])
        shown = drawn[:: clip.stride]
        frames |= {stop: shown[i] for i, stop in enumerate(clip.stops) if stop not in frames}
    return torch.stack([frames[i] for i in range(len(frames))])
