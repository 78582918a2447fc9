"""The sound of a video beside new frames: the packets as they are where mp4 takes them, else as AAC."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .read import Track

COPIED = frozenset(("aac", "mp3", "ac3", "eac3", "alac", "opus", "flac"))  # what players take out of an mp4
# What AAC knows; anything else becomes the last of them.
RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 64000, 88200, 96000, 48000)
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}  # of so many channels; containers may leave them unnamed
AHEAD = 0.5  # seconds the sound may be written ahead of the picture


class Sound:
    """The first audio stream of a video on its way into an mp4, in step with the frames.

    begins  seconds of the video's first frame: times count from it, as those of the film do
    """

    def __init__(self, source: Any, container: Any, begins: float) -> None:
        stream = source.streams.audio[0]
        codec = stream.codec_context.codec
        self.mux = container.mux
        if getattr(codec, "canonical_name", codec.name) in COPIED:  # the decoder of mp3 is called mp3float
            self.packets = _copied(source, stream, container.add_stream_from_template(stream), begins)
        else:
            rate = stream.codec_context.sample_rate
            rate = rate if rate in RATES else RATES[-1]
            out = container.add_stream("aac", rate=rate)
            out.codec_context.layout = LAYOUTS.get(stream.codec_context.channels, "stereo")
            self.packets = _encoded(source, stream, out, rate, begins)
        self.waiting = next(self.packets, None)

    def until(self, seconds: float) -> None:
        """Write what sounds up to a little after this time."""
        while self.waiting is not None and self.waiting[0] <= seconds + AHEAD:
            self.mux(self.waiting[1])
            self.waiting = next(self.packets, None)


@contextmanager
def sound_of(track: Track | None, container: Any) -> Iterator[Sound | None]:
    """`Sound` of a video into an mp4 container that is open for writing; None without one."""
    import av

    if track is None:
        yield None
        return
    # Not by `open_video`: what the writer raises in here is no fault of the source's.
    with av.open(f"file:{track.path}", options={"protocol_whitelist": "file"}) as source:
        yield Sound(source, container, track.begins)


def _copied(source: Any, stream: Any, out: Any, begins: float) -> Iterator[tuple[float, Any]]:
    shift = round(begins / stream.time_base)
    for packet in source.demux(stream):
        if packet.dts is None:  # the flush packet at the end
            continue
        packet.pts = (packet.dts if packet.pts is None else packet.pts) - shift
        packet.dts -= shift
        seconds = float(packet.dts * stream.time_base)
        packet.stream = out
        yield seconds, packet


def _encoded(source: Any, stream: Any, out: Any, rate: int, begins: float) -> Iterator[tuple[float, Any]]:
    import av

    resampler = av.AudioResampler("fltp", out.codec_context.layout.name, rate)
    shift = round(begins * rate)

    def packets(frame: Any) -> Iterator[tuple[float, Any]]:
        for packet in out.encode(frame):
            yield float((packet.dts or 0) * packet.time_base), packet

    for frame in source.decode(stream):
        for part in resampler.resample(frame):
            part.pts = None if part.pts is None else part.pts - shift
            yield from packets(part)
    yield from packets(None)
