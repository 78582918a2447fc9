"""Contract: a film of any length is drawn in bounded memory, goes on after a kill, and stays in time with its
sound; one segment drawn anew leaves the others alone.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers")
av = pytest.importorskip("av")

import vfi_core.svd.interpolate as host  # noqa: E402
from tests.svd.toys import toy_svd  # noqa: E402
from vfi_core import cli, media  # noqa: E402
from vfi_core.cli_segments import Segments  # noqa: E402
from vfi_core.svd.load import save_single_file  # noqa: E402
from vfi_core.timeline import even_timeline  # noqa: E402


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "toy.safetensors"
    save_single_file(toy_svd(), path, torch.float32)
    return path


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Seeds of what is drawn, by a host that answers at once: dark, as grey as the seed."""
    seeds: list[int] = []

    def grey(svd, adapter, settings, height, width):
        def draw(frames, first, last, seed, step):
            seeds.append(seed)
            return torch.full((frames, height, width, 3), seed % 100 / 255)

        return draw

    monkeypatch.setattr(host, "segment_drawing", grey)
    return seeds


def words(checkpoint: Path, *more: object) -> list[str]:
    fixed = "interpolate", "--model", checkpoint, "--adapter", "none", "--device", "cpu", "--steps", 1
    return [str(word) for word in (*fixed, *more)]


def noise_film(path: Path, count: int, fps: float = 12, size: int = 64) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (count, size, size, 3), generator=g, dtype=torch.uint8)
    media.write_film(frames, path, fps)
    return frames


def test_a_seed_for_one_segment_draws_that_one_alone(checkpoint: Path, tmp_path: Path, drawn: list[int]):
    noise_film(tmp_path / "in", 5)
    line = "--frames", 2, "--seed", 10, "--keep-segments"
    assert cli.main(words(checkpoint, tmp_path / "in", *line, "-o", tmp_path / "film.gif")) == 0
    assert drawn == [10, 11, 12, 13]
    before = sorted((tmp_path / ".film.gif.segments").iterdir())
    assert (
        cli.main(words(checkpoint, tmp_path / "in", *line, "--reseed", "2:77", "-o", tmp_path / "film.gif"))
        == 0
    )
    assert drawn == [10, 11, 12, 13, 77]
    after = sorted((tmp_path / ".film.gif.segments").iterdir())
    assert set(before) < set(after) and len(after) == 5
    assert cli.main(words(checkpoint, tmp_path / "in", *line[:4], "-o", tmp_path / "film.gif")) == 0
    assert drawn == [10, 11, 12, 13, 77]  # all of them were there
    assert not (tmp_path / ".film.gif.segments").exists()


@pytest.mark.parametrize(
    "change",
    [("--steps", 2), ("--size", "128x64"), ("--colour-lock",), ("--guidance", 2), ("--clip-frames", 5)],
    ids=str,
)
def test_other_settings_draw_everything_anew(
    checkpoint: Path, tmp_path: Path, drawn: list[int], change: tuple
):
    noise_film(tmp_path / "in", 3)
    line = tmp_path / "in", "--frames", 2, "--keep-segments", "-o", tmp_path / "film.gif"
    for more in ((), change, change):
        assert cli.main(words(checkpoint, *line, *more)) == 0
    assert len(drawn) == 4


def test_memory_holds_two_keyframes_and_one_segment_however_long_the_film(tmp_path: Path):
    alive: list[weakref.ref] = []
    most = 0

    def count(frame: torch.Tensor) -> torch.Tensor:
        nonlocal most
        alive.append(weakref.ref(frame))
        alive[:] = [one for one in alive if one() is not None]
        most = max(most, len(alive))
        return frame

    def keyframes() -> Iterator[torch.Tensor]:
        for i in range(200):
            yield count(torch.full((8, 8, 3), i % 256, dtype=torch.uint8))

    def draw(frames: int, first: torch.Tensor, *_: Any) -> torch.Tensor:
        return count(torch.full((frames, 8, 8, 3), 0.5))

    timeline = even_timeline(200, 4, 24.0)
    segments = Segments(tmp_path / "film.mp4", "", media.Source(keyframes, 200, (8, 8)), timeline)
    segments.draw(draw, {s.number: 1 for s in timeline.segments}, {s.number: 0 for s in timeline.segments})
    gc.collect()
    total = sum(count(frame) is not None for frame in segments.film())
    assert total == timeline.frames == 996
    assert most <= 10  # the first keyframe, two neighbours, a segment as its frames and as a whole


def test_a_film_that_was_killed_goes_on_and_is_the_same(checkpoint: Path, tmp_path: Path):
    noise_film(tmp_path / "in", 13)
    line = "--frames", 2, "--seed", 3
    whole = words(checkpoint, tmp_path / "in", *line, "-o", tmp_path / "whole")
    assert cli.main(whole) == 0
    killed = words(checkpoint, tmp_path / "in", *line, "-o", tmp_path / "killed")
    folder = tmp_path / ".killed.segments"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen([sys.executable, "-m", "vfi_core.cli", *killed], env=environment)
    while process.poll() is None and (not folder.is_dir() or len(list(folder.iterdir())) < 4):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {place: place.stat().st_mtime_ns for place in folder.iterdir() if not place.name.startswith(".")}
    assert 3 <= len(kept) < 12 and not (tmp_path / "killed").exists()
    assert cli.main([*killed, "--keep-segments"]) == 0
    assert all(place.stat().st_mtime_ns == since for place, since in kept.items())
    films = [sorted((tmp_path / name).iterdir()) for name in ("whole", "killed")]
    assert [p.name for p in films[0]] == [p.name for p in films[1]] and len(films[0]) == 37
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*films, strict=True))


def test_a_cancel_says_what_is_kept(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    noise_film(tmp_path / "in", 4)

    def draw(frames, first, last, seed, step):
        if seed == 2:
            raise KeyboardInterrupt
        return torch.zeros(frames, *first.shape)

    monkeypatch.setattr(host, "segment_drawing", lambda *_: draw)
    assert cli.main(words(checkpoint, tmp_path / "in", "--frames", 2, "-o", tmp_path / "film.gif")) == 130
    assert "stopped; 2 of 3 segments are kept; the same command goes on from there" in capsys.readouterr().err


def clapper(
    path: Path,
    fps: Fraction,
    seconds: int,
    codec: str,
    claps: list[float],
    rate: int = 48_000,
    late: float = 0.0,
    times: list[float] | None = None,
) -> None:
    """A black film that is white for one frame at each clap, with a click that begins at the same time.

    late   seconds by which picture and sound begin after the file's own zero; the sound has as much before
    times  of the frames, where they are not even
    """
    with av.open(str(path), "w") as container:
        video, audio = container.add_stream("libx264", rate=fps), container.add_stream(codec, rate=rate)
        video.codec_context.time_base = video.time_base = Fraction(1, 12_000)
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        shown = {round(clap * fps) for clap in claps}
        for i in range(round(seconds * fps)):
            if times is not None and i >= len(times):
                break
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 255 if i in shown else 0, np.uint8))
            frame.time_base = Fraction(1, 12_000)
            frame.pts = round(12_000 * (late + (float(i / fps) if times is None else times[i])))
            for packet in video.encode(frame):
                container.mux(packet)
        samples = np.zeros(round((seconds + late) * rate), np.float32)
        for frame in shown:
            start = round((late + float(frame / fps)) * rate)
            samples[start : start + rate // 120] = np.sin(np.arange(rate // 120) * 19_200 / rate)
        layout, form = ("mono", "s16") if codec.startswith("pcm") else ("mono", "fltp")
        for start in range(0, len(samples), 1024):
            part = samples[None, start : start + 1024]
            part = (part * 32767).astype(np.int16) if form == "s16" else part
            frame = av.AudioFrame.from_ndarray(part, format=form, layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            for packet in audio.encode(frame):
                container.mux(packet)
        for stream in (video, audio):
            for packet in stream.encode():
                container.mux(packet)


def flashes_and_clicks(path: Path) -> tuple[list[float], list[float]]:
    """Seconds at which the picture turns white, and at which a click begins."""
    flashes, clicks, quiet = [], [], -1.0
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            if frame.to_ndarray(format="rgb24").mean() > 128:
                flashes.append(frame.time)
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            samples = frame.to_ndarray().astype(np.float32).reshape(-1)
            loud = np.flatnonzero(
                np.abs(samples) > 0.3 * (32767 if frame.format.name.startswith("s16") else 1)
            )
            if len(loud) and (begin := frame.time + loud[0] / frame.sample_rate) - quiet > 0.1:
                clicks.append(begin)
            if len(loud):
                quiet = frame.time + loud[-1] / frame.sample_rate
    return flashes, clicks


@pytest.mark.parametrize(
    ("source", "codec", "rate", "options"),
    [
        ("in.mp4", "aac", Fraction(12), ("--fps", 30)),
        ("in.mp4", "aac", Fraction(24000, 1001), ("--fps", 60)),
        ("in.mkv", "pcm_s16le", Fraction(25), ("--fps", 59.94)),
        ("in.mov", "aac", Fraction(12), ("--frames", 3)),
    ],
    ids=["12 to 30", "23.976 to 60", "25 to 59.94, pcm", "four times"],
)
def test_sound_stays_in_time_to_one_frame(
    checkpoint: Path,
    tmp_path: Path,
    drawn: list[int],
    source: str,
    codec: str,
    rate: Fraction,
    options: tuple,
):
    claps = [0.5, 1.25, 2.5, 3.5]
    clapper(tmp_path / source, rate, 4, codec, claps)
    out = tmp_path / "out.mp4"
    line = words(checkpoint, tmp_path / source, *options, "--cuts", "off", "--seed", 0, "-o", out)
    assert cli.main(line) == 0
    fps = media.read_fps(out)
    flashes, clicks = flashes_and_clicks(out)
    assert len(flashes) == len(clicks) == 4
    for flash, click, clap in zip(flashes, clicks, claps, strict=True):
        assert abs(flash - click) <= 1 / fps and abs(flash - clap) <= 1 / rate
    frames = len(media.read_video(tmp_path / source))
    assert len(media.read_video(out)) == pytest.approx((frames - 1) * fps / rate + 1, abs=0.6)


@pytest.mark.parametrize(
    ("source", "codec", "more"),
    [
        ("in.mkv", "pcm_s16le", {"late": 0.5}),  # recorded from the middle on
        ("in.mkv", "aac", {"late": 0.5}),
        ("in.mov", "pcm_s16le", {"rate": 192_000}),  # more than AAC knows
    ],
    ids=["late, pcm", "late, aac", "192 kHz"],
)
def test_sound_counts_from_the_first_frame_and_has_a_rate_that_plays(
    checkpoint: Path, tmp_path: Path, drawn: list[int], source: str, codec: str, more: dict
):
    clapper(tmp_path / source, Fraction(12), 3, codec, [1.0, 2.0], **more)
    line = words(checkpoint, tmp_path / source, "--fps", 24, "--cuts", "off", "-o", tmp_path / "out.mp4")
    assert cli.main(line) == 0
    flashes, clicks = flashes_and_clicks(tmp_path / "out.mp4")
    assert flashes == [1.0, 2.0]
    assert clicks == pytest.approx(flashes, abs=1 / 24)


def test_mp3_is_taken_over_as_it_is(checkpoint: Path, tmp_path: Path, drawn: list[int]):
    if "libmp3lame" not in av.codecs_available:
        pytest.skip("this PyAV writes no mp3")
    clapper(tmp_path / "in.mp4", Fraction(12), 1, "libmp3lame", [0.5])
    line = words(checkpoint, tmp_path / "in.mp4", "--frames", 1, "--cuts", "off", "-o", tmp_path / "out.mp4")
    assert cli.main(line) == 0
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.audio[0].codec_context.name.startswith("mp3")


def test_a_film_that_lasts_longer_than_its_video_has_no_sound(
    checkpoint: Path, tmp_path: Path, drawn: list[int], capsys: Any
):
    clapper(tmp_path / "in.mp4", Fraction(12), 1, "aac", [0.5])
    uneven = [0.0, 0.1, 0.2, 0.3, 0.9, 1.0]
    clapper(tmp_path / "uneven.mp4", Fraction(10), 1, "aac", [0.5], times=uneven)
    for source, *more in (("in.mp4", "--source-fps", 6), ("uneven.mp4",)):
        out = tmp_path / f"{source}.mp4"
        line = tmp_path / source, "--frames", 1, "--cuts", "off", *more, "-o", out
        assert cli.main(words(checkpoint, *line)) == 0
        with av.open(str(out)) as container:
            assert not container.streams.audio
    assert "unevenly apart, so the film has no sound" in capsys.readouterr().err
    line = tmp_path / "uneven.mp4", "--fps", 20, "--cuts", "off", "-o", tmp_path / "timed.mp4"
    assert cli.main(words(checkpoint, *line)) == 0
    assert len(media.read_video(tmp_path / "timed.mp4")) == 21


def test_a_scene_cut_is_held_and_told(checkpoint: Path, tmp_path: Path, drawn: list[int], capsys: Any):
    scenes = torch.stack([torch.full((64, 64, 3), value, dtype=torch.uint8) for value in (30, 30, 220, 220)])
    scenes[:2, :, :32], scenes[2:, 20:40] = 90, 120
    media.write_film(scenes, tmp_path / "in.mp4", 6)
    line = tmp_path / "in.mp4", "--frames", 2, "--seed", 50
    assert cli.main(words(checkpoint, *line, "-o", tmp_path / "held")) == 0
    assert "held at the scene cuts behind frames 1 (--cuts off fills them)" in capsys.readouterr().err
    assert drawn == [50, 52]
    film = media.read_keyframes([tmp_path / "held"])
    assert all(torch.equal(film[3], film[i]) for i in (4, 5)) and not torch.equal(film[5], film[6])
    assert cli.main(words(checkpoint, *line, "--cuts", "off", "-o", tmp_path / "filled")) == 0
    assert drawn[2:] == [50, 51, 52] and not capsys.readouterr().err


def test_an_animation_of_which_only_the_last_frame_lasts_is_read(
    checkpoint: Path, tmp_path: Path, drawn: list[int]
):
    pictures = [Image.new("RGB", (64, 64), (60 * i, 0, 0)) for i in range(3)]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=[0, 0, 100])
    assert cli.main(words(checkpoint, tmp_path / "a.gif", "--fps", 60, "-o", tmp_path / "b.mp4")) == 0


def test_other_weights_under_the_same_name_draw_everything_anew(
    checkpoint: Path, tmp_path: Path, drawn: list[int]
):
    noise_film(tmp_path / "in", 3)
    model = tmp_path / "model.safetensors"
    line = (
        "interpolate",
        tmp_path / "in",
        "--model",
        model,
        "--adapter",
        "none",
        "--device",
        "cpu",
        "--steps",
        1,
    )
    line = [str(word) for word in (*line, "--keep-segments", "-o", tmp_path / "film.gif")]
    for _ in range(2):
        model.write_bytes(checkpoint.read_bytes())
        os.utime(model, ns=(len(drawn), len(drawn)))
        assert cli.main(line) == 0
    assert len(drawn) == 4


def test_slow_motion_has_no_sound_and_a_gif_says_so(
    checkpoint: Path, tmp_path: Path, drawn: list[int], capsys: Any
):
    clapper(tmp_path / "in.mp4", Fraction(12), 1, "aac", [0.5])
    line = tmp_path / "in.mp4", "--frames", 1, "--cuts", "off"
    assert cli.main(words(checkpoint, *line, "--fps", 12, "-o", tmp_path / "slow.mp4")) == 0
    with av.open(str(tmp_path / "slow.mp4")) as container:
        assert not container.streams.audio
    assert "sound" not in capsys.readouterr().err
    assert cli.main(words(checkpoint, *line, "-o", tmp_path / "film.gif")) == 0
    assert "note: film.gif holds no sound; an .mp4 does" in capsys.readouterr().err
