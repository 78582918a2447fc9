"""Films out: mp4, gif, webp or a folder of PNG files, with the sound of a video.

Legend: n frames, H W pixels. Every frame is [H, W, 3] uint8 RGB. Whatever is written appears under its name
only when it is whole: it is made beside under a temporary name and renamed.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from .read import Track
from .sound import sound_of

FILMS = (".mp4", ".gif", ".webp")
# GIF stores centiseconds, and browsers slow anything under 2 of them down to 10.
GIF_FASTEST = 50


def check_output(out: Path, fps: float) -> None:
    """Raises ValueError where ``write_film`` could not write ``out`` at ``fps``: asked before the work."""
    if not (math.isfinite(fps) and 0 < fps <= 240):
        raise ValueError(f"{fps:g} frames per second cannot be written (use more than 0, up to 240)")
    suffix = out.suffix.lower()
    if suffix == ".gif" and fps > GIF_FASTEST:
        raise ValueError(
            f"a gif cannot play {fps:g} frames per second (use at most {GIF_FASTEST}, or .mp4 or .webp)"
        )
    if suffix and suffix not in FILMS and not out.is_dir():
        raise ValueError(
            f"{out} has the unknown suffix '{suffix}' (use .mp4, .gif, .webp, or none for a folder of png)"
        )
    if suffix == ".mp4":
        import av  # noqa: F401  a missing package is told now, not after the work
    if suffix in FILMS:
        check_output_file(out)
        return
    _check_parent(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file, so no folder of png can stand there; give another name")
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"{out} already holds files; give a new or an empty folder")


def check_output_file(out: Path) -> None:
    """Raises ValueError where no file can be put at ``out``."""
    _check_parent(out)
    if out.is_dir():
        raise ValueError(f"{out} is a folder, so no file can stand there; give another name")


def write_film(frames: Tensor | Iterable[Tensor], out: Path, fps: float, sound: Track | None = None) -> None:
    """Writes frames [n, H, W, 3] uint8 to ``out``: .mp4, .gif, animated .webp, or a folder of 00000.png, ...

    The png folder is exact. The others are lossy: mp4 is H.264 yuv420p in BT.709 (plays everywhere; an odd
    size gains one repeated row or column); gif has one palette of 256 colours for the film. Of an mp4 and of
    a folder one frame is in memory at a time; gif and webp need them all.
    sound  goes into an mp4, from its video's first frame on
    Raises ValueError for what ``check_output`` refuses and where the disk does not take it.
    """
    check_output(out, fps)
    suffix = out.suffix.lower() if out.suffix.lower() in FILMS else ""
    with _whole(out, suffix) as partial:
        if suffix == ".mp4":
            _write_mp4(frames, partial, fps, sound)
        elif suffix == ".gif":
            _write_gif(frames, partial, fps)
        elif suffix == ".webp":
            first, *rest = (_image(frame) for frame in frames)
            spans = _spans(len(rest) + 1, fps, 1000)
            first.save(partial, save_all=True, append_images=rest, duration=spans, loop=0, quality=90)
        else:
            partial.mkdir()
            for i, frame in enumerate(frames):
                _image(frame).save(partial / f"{i:05d}.png")


def write_picture(picture: Tensor, out: Path) -> None:
    """Writes one picture [H, W, 3] uint8 as png. Raises ValueError where ``out`` cannot be written."""
    check_output_file(out)
    with _whole(out, ".png") as partial:
        _image(picture).save(partial)


def _check_parent(out: Path) -> None:
    parent = out.absolute().parent
    if not parent.is_dir():
        raise ValueError(
            f"{parent} does not exist, so {out.name} cannot be written there; make the folder first"
        )
    if not os.access(parent, os.W_OK):
        raise ValueError(f"{parent} may not be written to; give another folder")


@contextmanager
def _whole(out: Path, suffix: str) -> Iterator[Path]:
    """A temporary path beside ``out`` which becomes ``out`` if the block ends well, and vanishes if not."""
    partial = out.absolute().with_name(f".{out.name}.{os.getpid()}.partial{suffix}")
    try:
        yield partial
        if partial.is_dir() and out.is_dir():
            out.rmdir()  # empty: checked at the door; Windows renames onto no folder
        os.replace(partial, out)
    except OSError as error:  # PyAV's errors from the system are OSErrors too
        raise ValueError(
            f"{out} cannot be written ({error.strerror or error}); nothing was left there"
        ) from error
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        partial.unlink(missing_ok=True)


def _image(frame: Tensor) -> Image.Image:
    return Image.fromarray(frame.cpu().contiguous().numpy())


def _spans(n: int, fps: float, unit: int) -> list[int]:
    """Durations of n frames in milliseconds, multiples of 1000 / unit, that add up to n / fps seconds."""
    ticks = [round(i * unit / fps) for i in range(n + 1)]
    return [(b - a) * (1000 // unit) for a, b in zip(ticks, ticks[1:], strict=False)]


def _write_gif(frames: Iterable[Tensor], path: Path, fps: float) -> None:
    pictures = [_image(frame) for frame in frames]
    # One palette for the whole film, from at most 16 small frames: a palette per frame flickers.
    some = [p.resize((96, 96)) for p in pictures[:: -(-len(pictures) // 16)]]
    strip = Image.new("RGB", (96 * len(some), 96))
    for i, picture in enumerate(some):
        strip.paste(picture, (96 * i, 0))
    palette = strip.quantize(256, Image.Quantize.MEDIANCUT)
    first, *rest = (p.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for p in pictures)
    spans = _spans(len(pictures), fps, 100)
    first.save(path, save_all=True, append_images=rest, duration=spans, loop=0, optimize=False)


def _write_mp4(frames: Iterable[Tensor], path: Path, fps: float, sound: Track | None) -> None:
    import av

    # faststart puts the index in front, so that a browser plays it while it loads.
    with av.open(f"file:{path}", "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "14", "preset": "medium"}
        # 1 = BT.709 in all three tables, limited range; untagged, players guess by the size.
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = context.color_range = 1
        with sound_of(sound, container) as voice:
            for i, frame in enumerate(frames):
                odd = (0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)
                even = np.pad(frame.cpu().numpy(), odd, "edge")
                if i == 0:
                    stream.height, stream.width = even.shape[:2]
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
                picture = picture.reformat(
                    format="yuv420p", src_color_range="JPEG", dst_colorspace="ITU709", dst_color_range="MPEG"
                )
                picture.colorspace = picture.color_range = 1
                for packet in stream.encode(picture):
                    container.mux(packet)
                if voice:
                    voice.until(i / fps)
            for packet in stream.encode():
                container.mux(packet)
            if voice:
                voice.until(math.inf)
