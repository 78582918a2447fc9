"""Single frames out of a long video: each frame's time once, and from then on only what is near is decoded.

Legend: n frames, H W pixels. A time is a frame's presentation time on its video's own clock, a whole number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .read import _upright, open_video

WHOLE = 0.9  # share of the promised length below which a film was cut off; sound may outlast its pictures


def timed_frames(path: Path) -> Iterator[tuple[int, Tensor]]:
    """(time, frame [H, W, 3] uint8) of every frame of a video, in order.

    Raises ValueError for a video that does not decode whole: damaged frames, times that do not rise, or an
    end before the one its header promises.
    """
    with open_video(path) as container:
        stream, count, last = container.streams.video[0], 0, None
        first = None
        for frame in container.decode(stream):
            if frame.is_corrupt:
                raise ValueError(f"{path} is damaged at frame {count}; give a whole file")
            if frame.pts is None or (last is not None and frame.pts <= last):
                raise ValueError(f"{path} has no rising times at frame {count}; convert it to mp4")
            first = frame.pts if first is None else first
            yield frame.pts, _upright(frame)
            count, last = count + 1, frame.pts
        if first is None or last is None:
            raise ValueError(f"{path} holds no video frames; give a file that plays")
        length = count / max(count - 1, 1) * float((last - first) * stream.time_base)
        promised = (container.duration or 0) / 1_000_000
        if count < WHOLE * stream.frames or length < WHOLE * promised and count > 1:
            raise ValueError(
                f"{path} ends after {count} frames, {length:.1f} of {promised:.1f} seconds; give a whole file"
            )


def frames_at(path: Path, times: Sequence[int]) -> Tensor:
    """The frames at these rising times, [n, H, W, 3] uint8: the very pixels a decoding of all would give.

    Decoding begins at the key frame before the first of them. Raises ValueError where one is not there.
    """
    with open_video(path) as container:
        stream = container.streams.video[0]
        container.seek(times[0], stream=stream)
        frames = _collect(container.decode(stream), times)
    if frames is None:
        with open_video(path) as container:
            frames = _collect(container.decode(video=0), times)
    if frames is None:
        raise ValueError(f"{path} has other frames than when it was looked through; make its index anew")
    return torch.stack(frames)


def _collect(decoded: Iterator[Any], times: Sequence[int]) -> list[Tensor] | None:
    """The frames at ``times``, or None where the decoding began too late for one or never came to it."""
    found, begun = [], False
    for frame in decoded:
        # What is shown before the first key frame may lean on pictures that were skipped.
        begun = begun or frame.key_frame
        if not begun:
            continue
        if frame.pts == times[len(found)]:
            found.append(_upright(frame))
            if len(found) == len(times):
                return found
        elif frame.pts is None or frame.pts > times[len(found)]:
            return None
    return None
