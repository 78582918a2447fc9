"""The sound of a video beside new frames: the packets as they are where mp4 takes them, else as AAC."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

from .read import open_video

COPIED = frozenset(("aac", "mp3", "ac3", "eac3", "alac", "opus", "flac"))  # what players take out of an mp4
AHEAD = 0.5  # seconds the sound may be written ahead of the picture


class Sound:
    """The first audio stream of a video on its way into an mp4, in step with the frames.

    Times count from the video's first frame, as those of the film do.
    """

    def __init__(self, source: Any, container: Any) -> None:
        stream, video = source.streams.audio[0], source.streams.video[0]
        start = Fraction(video.start_time or 0) * (video.time_base or 1)
        self.mux = container.mux
        if stream.codec_context.name in COPIED:
            self.packets = _copied(source, stream, container.add_stream_from_template(stream), start)
        else:
            self.packets = _encoded(
                source, stream, container.add_stream("aac", rate=stream.codec_context.sample_rate), start
            )
        self.waiting = next(self.packets, None)

    def until(self, seconds: float) -> None:
        """Write what sounds up to a little after this time."""
        while self.waiting is not None and self.waiting[0] <= seconds + AHEAD:
            self.mux(self.waiting[1])
            self.waiting = next(self.packets, None)


@contextmanager
def sound_of(path: Path | None, container: Any) -> Iterator[Sound | None]:
    """`Sound` of a video into an mp4 container that is open for writing; None without one."""
    if path is None:
        yield None
        return
    with open_video(path) as source:
        yield Sound(source, container)


def _copied(source: Any, stream: Any, out: Any, start: Fraction) -> Iterator[tuple[float, Any]]:
    shift = round(start / stream.time_base)
    for packet in source.demux(stream):
        if packet.dts is None:  # the flush packet at the end
            continue
        packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
        seconds = float(packet.dts * stream.time_base)
        packet.stream = out
        yield seconds, packet


def _encoded(source: Any, stream: Any, out: Any, start: Fraction) -> Iterator[tuple[float, Any]]:
    import av

    rate = stream.codec_context.sample_rate
    resampler = av.AudioResampler("fltp", stream.layout.name, rate)
    shift = round(start * rate)

    def packets(frame: Any) -> Iterator[tuple[float, Any]]:
        for packet in out.encode(frame):
            yield float((packet.dts or 0) * packet.time_base), packet

    for frame in source.decode(stream):
        for part in resampler.resample(frame):
            part.pts = None if part.pts is None else part.pts - shift
            yield from packets(part)
    yield from packets(None)
