"""Pictures and films, read and written: PIL for pictures, PyAV (imported only where it is needed) for video.

Legend: n frames, H W pixels. Every frame here is [H, W, 3] uint8 RGB. Whatever is written appears under its
name only when it is whole: it is made beside under a temporary name and renamed.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import struct
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError
from torch import Tensor

PICTURES = frozenset(
    (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".ppm", ".pgm", ".tga")
)
VIDEOS = frozenset((".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v"))
FILMS = (".mp4", ".gif", ".webp")
# GIF stores centiseconds, and browsers slow anything under 2 of them down to 10.
GIF_FASTEST = 50
# What Pillow raises for damaged files, by format: PNG chunks raise SyntaxError, TIFF tags struct.error.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


def read_keyframes(paths: list[Path]) -> list[Tensor]:
    """The keyframes in order, each [H, W, 3] uint8, all of one size.

    ``paths`` are pictures, or one folder of pictures (natural order: 2 before 10), or one video or animated
    picture (all frames). EXIF and video rotation are honoured; grey, palette, CMYK and 16-bit pictures (high
    byte) become RGB; transparency is laid over black, and opaque pixels keep their values.
    Raises ValueError for what is missing, unreadable, of different sizes, or fewer than two frames.
    """
    if len(paths) == 1 and paths[0].is_dir():
        files = sorted((p for p in paths[0].iterdir() if _is_picture(p)), key=_natural)
        if not files:
            raise ValueError(f"{paths[0]} holds no pictures; give a folder of at least two png or jpg frames")
        frames = [read_picture(p) for p in files]
        names = [p.name for p in files]
    elif len(paths) == 1:
        frames = [f for f, _ in _pictures(paths[0])] if _is_picture(paths[0]) else list(read_video(paths[0]))
        names = [f"frame {i} of {paths[0].name}" for i in range(len(frames))]
    else:
        frames = [read_picture(p) for p in paths]
        names = [str(p) for p in paths]
    if len(frames) < 2:
        raise ValueError(f"{len(frames)} keyframe given{_of(paths)}; in-betweens need at least two")
    for name, frame in zip(names, frames, strict=True):
        if frame.shape != frames[0].shape:
            raise ValueError(
                f"{name} is {_size(frame)} but {names[0]} is {_size(frames[0])}; make all keyframes one size"
            )
    return frames


def read_picture(path: Path) -> Tensor:
    """One picture as [H, W, 3] uint8; the first frame of an animated one. Raises ValueError if unreadable."""
    return _pictures(path, 1)[0][0]


def read_video(path: Path) -> Tensor:
    """Every frame of a video, [n, H, W, 3] uint8. Raises ValueError for a file that does not decode."""
    with _video(path) as container:
        frames = [_upright(frame) for frame in container.decode(video=0)]
    if not frames:
        raise ValueError(f"{path} holds no video frames; give a file that plays")
    return torch.stack(frames)


def read_fps(path: Path) -> float | None:
    """Frames per second of a video or an animated picture; None where the file does not say."""
    if path.is_dir():
        return None
    if _is_picture(path):
        spans = [span for _, span in _pictures(path)]
        return 1000 * len(spans) / sum(spans) if len(spans) > 1 and sum(spans) else None
    with _video(path) as container:
        rate = container.streams.video[0].average_rate
    return float(rate) if rate else None


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


def write_film(frames: Tensor | Iterable[Tensor], out: Path, fps: float) -> None:
    """Writes frames [n, H, W, 3] uint8 to ``out``: .mp4, .gif, animated .webp, or a folder of 00000.png, ...

    The png folder is exact. The others are lossy: mp4 is H.264 yuv420p in BT.709 (plays everywhere; an odd
    size gains one repeated row or column); gif has one palette of 256 colours for the film.
    Raises ValueError for what ``check_output`` refuses and where the disk does not take it.
    """
    check_output(out, fps)
    suffix = out.suffix.lower() if out.suffix.lower() in FILMS else ""
    with _whole(out, suffix) as partial:
        if suffix == ".mp4":
            _write_mp4(frames, partial, fps)
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


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURES and not path.name.startswith(".") and path.is_file()


def _natural(path: Path) -> list[tuple[int, str]]:
    return [
        (int(part), "") if part.isdigit() else (0, part) for part in re.split(r"([0-9]+)", path.name.lower())
    ]


def _of(paths: list[Path]) -> str:
    return f" by {paths[0]}" if len(paths) == 1 else ""


def _size(frame: Tensor) -> str:
    return f"{frame.shape[1]}x{frame.shape[0]}"


def _pictures(path: Path, most: int | None = None) -> list[tuple[Tensor, float]]:
    """The frames of a picture file (one, unless it is animated) with their durations in milliseconds."""
    _check_file(path)
    if path.suffix.lower() in VIDEOS:
        raise ValueError(f"{path} is a video; give it alone, or give pictures")
    with warnings.catch_warnings():
        # Pillow only warns between 89 and 179 million pixels; such pictures are large, not wrong.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            picture = Image.open(path)
        except UnidentifiedImageError as error:
            raise ValueError(f"{path} is not a picture that can be read; give a png or jpg") from error
        except _DAMAGED as error:
            raise ValueError(f"{path} cannot be read ({error}); give a whole picture") from error
    with picture:
        if picture.mode == "F":
            raise ValueError(f"{path} is a floating-point picture; save it with 8 or 16 bits a channel")
        try:
            frames = islice(ImageSequence.Iterator(picture), most)
            return [(_rgb(frame), frame.info.get("duration", 0)) for frame in frames]
        except _DAMAGED as error:
            raise ValueError(f"{path} is damaged and cannot be read ({error}); give a whole one") from error


def _rgb(picture: Image.Image) -> Tensor:
    picture.load()
    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I"):  # 16-bit grey; the high byte, as Pillow itself does with 16-bit colour
        upright = Image.fromarray((np.asarray(upright).clip(0, 65535) >> 8).astype(np.uint8))
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    return torch.from_numpy(np.array(upright.convert("RGB")))


@contextmanager
def _video(path: Path) -> Iterator[Any]:
    import av
    from av.error import FFmpegError

    _check_file(path)
    try:
        # "file:" so that a colon in a name is no protocol, and the whitelist so that a playlist stays local.
        with av.open(f"file:{path}", options={"protocol_whitelist": "file"}) as container:
            # ffmpeg's "tty" renders any text file as a film
            if not container.streams.video or container.format.name == "tty":
                raise ValueError(f"{path} holds no video stream; give a video, or pictures")
            yield container
    except (FFmpegError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"{path} cannot be read as a video ({reason}); give a file that plays") from error


def _upright(frame: Any) -> Tensor:
    pixels = torch.from_numpy(frame.to_ndarray(format="rgb24"))
    turns = round(getattr(frame, "rotation", 0) / 90) % 4  # counter-clockwise, from the display matrix
    return torch.rot90(pixels, turns).contiguous() if turns else pixels


def _check_file(path: Path) -> None:
    if not path.exists():
        raise ValueError(
            f"{path} does not exist; give the path of a picture, a video, or a folder of pictures"
        )
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give it alone, or give pictures")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty; give a whole file")


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


def _write_mp4(frames: Iterable[Tensor], path: Path, fps: float) -> None:
    import av

    # faststart puts the index in front, so that a browser plays it while it loads.
    with av.open(f"file:{path}", "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream: Any = None
        for frame in frames:
            even = np.pad(
                frame.cpu().numpy(), ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), "edge"
            )
            if stream is None:
                stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
                stream.height, stream.width = even.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.options = {"crf": "14", "preset": "medium"}
                # 1 = BT.709 in all three tables, limited range; untagged, players guess by the size.
                context = stream.codec_context
                context.colorspace = context.color_primaries = context.color_trc = context.color_range = 1
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
            picture = picture.reformat(
                format="yuv420p", src_color_range="JPEG", dst_colorspace="ITU709", dst_color_range="MPEG"
            )
            picture.colorspace = picture.color_range = 1
            for packet in stream.encode(picture):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
