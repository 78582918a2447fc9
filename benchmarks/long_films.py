"""Long films through `svd-vfi interpolate` with the bundled miniature: peak memory, and a kill half way.

    python benchmarks/long_films.py FOLDER [--seconds 60 --sparse-minutes 10]

Draws a dense video (24 frames a second, brought to 60) and a sparse one (a keyframe every 2 seconds, brought
to 12), each with sound, and a short one of either for comparison. Each long one is killed when half of its
segments are there, and the same command is given again. Prints the resident peak of every run, the frames
drawn before and after the kill, and whether film and sound have the length they must have.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

SIDE, RATE = 64, 24_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--sparse-minutes", type=int, default=10)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    cases = [
        ("dense", Fraction(24), Fraction(60), 4, args.seconds),
        ("sparse", Fraction(1, 2), Fraction(12), 40, args.sparse_minutes * 60),
    ]
    for name, source_rate, rate, short, long in cases:
        draw_video(args.folder / f"{name}_short.mkv", source_rate, short)
        draw_video(args.folder / f"{name}.mkv", source_rate, long)
        peak = run(args.folder, f"{name}_short", rate)
        print(f"{name}: {short} s: peak {peak:.0f} MiB")
        kept = kill_half_way(args.folder, name, rate, round(long * source_rate) - 1)
        begun = time.time()
        peak = run(args.folder, name, rate)
        took = time.time() - begun
        print(f"{name}: {long} s: killed with {kept} segments, went on; peak {peak:.0f} MiB, {took:.0f} s")
        frames, sound = lengths(args.folder / f"{name}.mp4")
        wanted = float((round(long * source_rate) - 1) / source_rate * rate) + 1
        print(f"{name}: {frames} frames of {wanted:g}, sound {sound:.2f} s of {long}")


def draw_video(path: Path, rate: Fraction, seconds: int) -> None:
    """A disc that goes round on a moving ground, losslessly, and a tone."""
    y, x = np.mgrid[:SIDE, :SIDE]
    with av.open(str(path), "w") as container:
        video, audio = container.add_stream("ffv1", rate=rate), container.add_stream("pcm_s16le", rate=RATE)
        video.width = video.height = SIDE
        video.pix_fmt = "bgr0"
        video.time_base = video.codec_context.time_base = 1 / rate
        for i in range(round(seconds * rate)):
            angle = float(i / rate) * 0.4
            disc = (x - 32 - 20 * np.cos(angle)) ** 2 + (y - 32 - 20 * np.sin(angle)) ** 2 < 80
            ground = 90 + 50 * np.sin(x / 9 + angle) * np.cos(y / 11)
            pixels = np.stack(
                [np.where(disc, colour, ground * tint) for colour, tint in ((240, 1), (180, 0.8), (60, 0.6))],
                2,
            )
            frame = av.VideoFrame.from_ndarray(pixels.astype(np.uint8), format="rgb24")
            frame.pts, frame.time_base = i, 1 / rate
            for packet in video.encode(frame):
                container.mux(packet)
            wave = (8000 * np.sin(np.arange(int(RATE / rate)) * 0.1)).astype(np.int16)[None]
            sound = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
            sound.sample_rate, sound.pts, sound.time_base = RATE, i * int(RATE / rate), Fraction(1, RATE)
            for packet in audio.encode(sound):
                container.mux(packet)
        for stream in (video, audio):
            for packet in stream.encode():
                container.mux(packet)


def command(folder: Path, name: str, rate: Fraction) -> list[str]:
    files = [str(folder / f"{name}.mkv"), "-o", str(folder / f"{name}.mp4")]
    settings = [
        "--fps",
        str(float(rate)),
        "--size",
        "64x64",
        "--steps",
        "1",
        "--guidance",
        "1",
        "--cuts",
        "off",
    ]
    return [sys.executable, "-m", "vfi_core.cli", "interpolate", *files, *settings, "--device", "cpu"]


def run(folder: Path, name: str, rate: Fraction) -> float:
    """Resident peak in MiB."""
    process = subprocess.Popen(command(folder, name, rate), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{name} ended with {status}")
    return usage.ru_maxrss / 1024


def kill_half_way(folder: Path, name: str, rate: Fraction, segments: int) -> int:
    """How many segments were drawn when the process was killed."""
    drawn = folder / f".{name}.mp4.segments"
    process = subprocess.Popen(command(folder, name, rate), stdout=subprocess.DEVNULL)

    def kept() -> Iterator[Path]:
        return (place for place in drawn.glob("*") if not place.name.startswith("."))

    while process.poll() is None and sum(1 for _ in kept()) < segments / 2:
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if (folder / f"{name}.mp4").exists():
        raise RuntimeError(f"{name} was finished before it could be killed")
    return sum(1 for _ in kept())


def lengths(path: Path) -> tuple[int, float]:
    """Frames, and seconds of sound."""
    with av.open(str(path)) as container:
        frames = sum(1 for _ in container.decode(video=0))
    with av.open(str(path)) as container:
        samples = sum(frame.samples for frame in container.decode(audio=0))
    return frames, samples / RATE


if __name__ == "__main__":
    main()
