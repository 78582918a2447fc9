"""Frames in: pictures by PIL, videos by PyAV (imported only where it is needed), one frame after the other.

Legend: n frames, H W pixels. Every frame is [H, W, 3] uint8 RGB.
"""

from __future__ import annotations

import re
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, islice
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
# What Pillow raises for damaged files, by format: PNG chunks raise SyntaxError, TIFF tags struct.error.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


@dataclass(frozen=True)
class Track:
    """The sound of a video. begins: seconds of the video's first frame, on the file's own clock."""

    path: Path
    begins: float


@dataclass(frozen=True)
class Source:
    """Keyframes in order, each [H, W, 3] uint8, all of one size, at least two.

    frames  reads them anew each time it is called, one in memory
    size    H, W
    times   seconds of each from the first, where they come from a video or an animated picture
    fps     frames a second, where known
    sound   where a video has some that can be taken over
    video   whether they are the frames of a video
    """

    frames: Callable[[], Iterator[Tensor]]
    count: int
    size: tuple[int, int]
    times: tuple[float, ...] | None = None
    fps: float | None = None
    sound: Track | None = None
    video: bool = False

    @property
    def steady(self) -> bool:
        """Whether every frame is less than half a frame beside the place that ``fps`` gives it."""
        times = self.times or ()
        return bool(self.fps) and all(abs(t * self.fps - i) < 0.5 for i, t in enumerate(times))


def open_source(paths: list[Path]) -> Source:
    """The keyframes of ``paths``, looked through once: whatever is wrong with them is told before the work.

    ``paths`` are pictures, or one folder of pictures (natural order: 2 before 10), or one video or animated
    picture (all frames). EXIF and video rotation are honoured; grey, palette, CMYK and 16-bit pictures (high
    byte) become RGB; transparency is laid over black, and opaque pixels keep their values.
    Raises ValueError for what is missing, unreadable, of different sizes, or fewer than two frames.
    """
    path = paths[0]
    if len(paths) == 1 and not path.is_dir():
        return _animation(path) if _is_picture(path) else _film(path)
    files = paths
    if len(paths) == 1:
        files = sorted((p for p in path.iterdir() if _is_picture(p)), key=_natural)
        if not files:
            raise ValueError(f"{path} holds no pictures; give a folder of at least two png or jpg frames")
    sizes = [_size(read_picture(file)) for file in files]
    names = [p.name for p in files] if len(paths) == 1 else [str(p) for p in files]
    return Source(lambda: map(read_picture, files), len(files), _one_size(sizes, names.__getitem__, paths))


def read_keyframes(paths: list[Path]) -> list[Tensor]:
    """All frames of `open_source` at once."""
    return list(open_source(paths).frames())


def read_picture(path: Path) -> Tensor:
    """One picture as [H, W, 3] uint8; the first frame of an animated one. Raises ValueError if unreadable."""
    return _pictures(path, 1)[0][0]


def read_video(path: Path) -> Tensor:
    """Every frame of a video, [n, H, W, 3] uint8. Raises ValueError for a file that does not decode."""
    frames = list(video_frames(path))
    if not frames:
        raise ValueError(f"{path} holds no video frames; give a file that plays")
    return torch.stack(frames)


def video_frames(path: Path) -> Iterator[Tensor]:
    """A video's frames [H, W, 3] uint8 one after the other. Raises ValueError where it does not decode."""
    with open_video(path) as container:
        for frame in container.decode(video=0):
            yield _upright(frame)


def read_fps(path: Path) -> float | None:
    """Frames per second of a video or an animated picture; None where the file does not say."""
    if path.is_dir():
        return None
    if _is_picture(path):
        return _pace([span for _, span in _pictures(path)])
    with open_video(path) as container:
        rate = container.streams.video[0].average_rate
    return float(rate) if rate else None


def _film(path: Path) -> Source:
    times, sizes = [], []
    with open_video(path) as container:
        rate = container.streams.video[0].average_rate
        # Without a decoder for it there is no codec context, and nothing to be done with its packets.
        audible = bool(container.streams.audio) and container.streams.audio[0].codec_context is not None
        for frame in container.decode(video=0):
            sideways = _turns(frame) % 2
            sizes.append((frame.width, frame.height) if sideways else (frame.height, frame.width))
            times.append(frame.time)
    size = _one_size(sizes, lambda i: f"frame {i} of {path.name}", [path])
    since = _rising([t - times[0] for t in times]) if None not in times else None
    fps = float(rate) if rate else None
    if since is not None:
        pace = (len(since) - 1) / since[-1]
        fps = fps if fps and abs(fps / pace - 1) < 0.05 else pace  # of varying rates the file says anything
    track = Track(path, times[0]) if audible and since is not None else None
    return Source(lambda: video_frames(path), len(sizes), size, since, fps, track, True)


def _animation(path: Path) -> Source:
    frames, spans = zip(*_pictures(path), strict=True)
    sizes = [_size(frame) for frame in frames]
    size = _one_size(sizes, lambda i: f"frame {i} of {path.name}", [path])
    since = _rising([ended / 1000 for ended in accumulate((0, *spans[:-1]))])
    return Source(lambda: iter(frames), len(frames), size, since, _pace(spans))


def _rising(times: list[float]) -> tuple[float, ...] | None:
    """Times that can be relied on: each later than the one before."""
    return tuple(times) if all(a < b for a, b in zip(times, times[1:], strict=False)) else None


def _pace(spans: Sequence[float]) -> float | None:
    """Frames a second of spans in milliseconds."""
    return 1000 * len(spans) / sum(spans) if len(spans) > 1 and sum(spans) else None


def _size(frame: Tensor) -> tuple[int, int]:
    return frame.shape[0], frame.shape[1]


def _one_size(sizes: list[tuple[int, int]], name: Callable[[int], str], paths: list[Path]) -> tuple[int, int]:
    if len(sizes) < 2:
        raise ValueError(f"{len(sizes)} keyframe given{_of(paths)}; in-betweens need at least two")
    for i, (height, width) in enumerate(sizes):
        if (height, width) != sizes[0]:
            raise ValueError(
                f"{name(i)} is {width}x{height} but {name(0)} is {sizes[0][1]}x{sizes[0][0]}; make all "
                "keyframes one size"
            )
    return sizes[0]


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURES and not path.name.startswith(".") and path.is_file()


def _natural(path: Path) -> list[tuple[int, str]]:
    return [
        (int(part), "") if part.isdigit() else (0, part) for part in re.split(r"([0-9]+)", path.name.lower())
    ]


def _of(paths: list[Path]) -> str:
    return f" by {paths[0]}" if len(paths) == 1 else ""


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
def open_video(path: Path) -> Iterator[Any]:
    """A video's PyAV container; ValueError in one sentence for a file that is none."""
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


def _turns(frame: Any) -> int:
    """Quarters to turn it by, counter-clockwise, from the display matrix."""
    return round(getattr(frame, "rotation", 0) / 90) % 4


def _upright(frame: Any) -> Tensor:
    pixels = torch.from_numpy(frame.to_ndarray(format="rgb24"))
    turns = _turns(frame)
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
