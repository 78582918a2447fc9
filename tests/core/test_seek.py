"""Frames out of the middle of a video: the pixels a whole decoding gives, and nothing of a damaged one."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vfi_core.media import read_video, seek
from vfi_core.media.seek import frames_at, timed_frames

av = pytest.importorskip("av")

KINDS = {
    "open.mp4": ("libx264", {"g": "8", "bf": "3", "sc_threshold": "0", "x264-params": "open-gop=1"}),
    "closed.mkv": ("libx264", {"g": "12", "bf": "2"}),
    "old.avi": ("mpeg4", {"g": "10"}),
    "web.webm": ("libvpx-vp9", {"g": "9", "lag-in-frames": "8"}),
}


def film(path: Path, codec: str, options: dict[str, str], n: int = 40, uneven: bool = False) -> Path:
    """A square that moves over noise which stays, written with key frames every few frames."""
    g = torch.Generator().manual_seed(0)
    ground = (torch.rand(48, 64, 3, generator=g) * 255).byte()
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=24, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(n):
            picture = ground.clone()
            picture[8:24, i : i + 16] = torch.tensor([250, 30, 20], dtype=torch.uint8)
            frame = av.VideoFrame.from_ndarray(picture.numpy(), format="rgb24")
            if uneven:
                frame.pts, frame.time_base = i + i // 3, Fraction(1, 24)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("name", KINDS)
def test_any_window_has_the_pixels_of_a_whole_decoding(tmp_path: Path, name: str) -> None:
    path = film(tmp_path / name, *KINDS[name])
    whole = read_video(path)
    times, frames = zip(*timed_frames(path), strict=True)
    assert torch.equal(torch.stack(frames), whole) and len(times) == 40
    for start in range(34):
        chosen = list(range(start, 40, 1 + start % 3))[:3]
        assert torch.equal(frames_at(path, [times[i] for i in chosen]), whole[chosen])


def test_frames_of_uneven_times_are_found(tmp_path: Path) -> None:
    path = film(tmp_path / "uneven.mp4", "libx264", {"g": "8"}, uneven=True)
    times: list[int] = [time for time, _ in timed_frames(path)]
    assert len({b - a for a, b in zip(times, times[1:], strict=False)}) > 1
    assert torch.equal(frames_at(path, times[17:20]), read_video(path)[17:20])


def test_a_time_that_is_not_there_is_told(tmp_path: Path) -> None:
    path = film(tmp_path / "f.mp4", "libx264", {})
    with pytest.raises(ValueError, match="other frames than when it was looked through"):
        frames_at(path, [1, 2])


@pytest.mark.parametrize("name", KINDS)
def test_a_video_that_was_cut_off_is_not_taken_for_a_whole_one(tmp_path: Path, name: str) -> None:
    path = film(tmp_path / name, *KINDS[name])
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    with pytest.raises(ValueError, match=name):
        drain(path)


def test_a_fast_start_video_that_was_cut_off_is_not_either(tmp_path: Path) -> None:
    plain = film(tmp_path / "plain.mp4", "libx264", {"g": "8"})
    fast = tmp_path / "fast.mp4"
    with av.open(str(plain)) as read, av.open(str(fast), "w", options={"movflags": "faststart"}) as write:
        stream = write.add_stream_from_template(read.streams.video[0])
        for packet in read.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                write.mux(packet)
    fast.write_bytes(fast.read_bytes()[: int(fast.stat().st_size * 0.7)])
    with pytest.raises(ValueError, match="fast.mp4"):
        drain(fast)


def test_bits_turned_over_in_the_middle_are_noticed(tmp_path: Path) -> None:
    path = film(tmp_path / "f.mp4", "libx264", {"g": "40"})
    data = bytearray(path.read_bytes())
    middle = data.find(b"mdat") + (len(data) - data.find(b"mdat")) // 3
    data[middle : middle + 400] = bytes(400)
    path.write_bytes(data)
    with pytest.raises(ValueError, match="f.mp4"):
        drain(path)


def drain(path: Path) -> list[Tensor]:
    return [frame for _, frame in timed_frames(path)]


def test_of_a_long_video_only_what_is_near_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = film(tmp_path / "f.mp4", "libx264", {"g": "8", "bf": "2", "sc_threshold": "0"})
    times = [time for time, _ in timed_frames(path)]
    collect, decoded = seek._collect, []
    monkeypatch.setattr(
        seek, "_collect", lambda frames, wanted: collect((decoded.append(f) or f for f in frames), wanted)
    )
    frames_at(path, times[30:33])
    assert len(decoded) <= 8 + 3 + 2
