"""The pictures of the report: which clips it shows, and their films as strips small enough to embed.

Legend: t frames, H W pixels. A strip is all frames of a film side by side.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

BUDGET = (
    22_000_000  # bytes of all embedded pictures, base64; tables and plots take a few hundred thousand more
)
SIDES = (256, 224, 192, 160, 128)  # pixels of a frame's shorter side, the largest that the budget allows
SMALL = 128  # below it pictures are enlarged, pixels kept: compression would show, so they are lossless
GAIN = 4  # of the absolute difference to the truth
LONGEST = 16_383  # pixels of a WebP's side


@dataclass(frozen=True)
class Strip:
    """A film and its difference to the truth as `data:` addresses; ``ends``: with the given frames."""

    method: str
    film: str
    difference: str
    ends: bool


@dataclass(frozen=True)
class Film:
    """A clip's strips, the truth first.

    t              frames of the film
    width, height  of an embedded frame
    native         (width, height) of a frame as it was measured
    missing        methods without a film
    """

    strips: list[Strip]
    t: int
    width: int
    height: int
    native: tuple[int, int]
    missing: list[str]

    @property
    def bytes(self) -> int:
        return sum(len(strip.film) + len(strip.difference) for strip in self.strips)


class Purse:
    """Bytes left for pictures, in equal parts for the clips still to come."""

    def __init__(self, left: int, clips: int) -> None:
        self.left, self.clips = left, clips

    def spend(self, make: Callable[[int], Film | None]) -> tuple[Film | None, str]:
        """The film ``make`` gives for a number of bytes, or why there is none."""
        film = make(self.left // max(1, self.clips))
        self.clips -= 1
        if film is None:
            return None, "Its films are not in the folder films."
        if film.bytes > self.left:
            return None, "Its films have no room left in this file; they are in the folder films."
        self.left -= film.bytes
        return film, ""


def extremes(gains: dict[str, float], each: int) -> tuple[list[str], list[str]]:
    """The clips where a method gains most and least, best and worst first; no clip is in both."""
    order = sorted(gains, key=lambda clip: (-gains[clip], clip))
    each = min(each, (len(order) + 1) // 2)
    return order[:each], order[each:][::-1][:each]


def film_of(folder: Path, methods: list[str], frames: int | None, room: int) -> Film | None:
    """The films in a clip's folder, as large as ``room`` bytes allow, but never below SIDES' smallest.

    folder  <method>.webp and truth.webp, each t frames side by side
    frames  t; None: frames are square
    None where there is no film of the truth.
    Raises ValueError for a file that is no picture, or not of the truth's size.
    """
    if not (folder / "truth.webp").is_file():
        return None
    truth = _read(folder / "truth.webp")
    t = truth.shape[1] // truth.shape[0] if frames is None else frames
    if t < 3 or truth.shape[1] % t:
        raise ValueError(
            f"{folder / 'truth.webp'} is {truth.shape[1]}x{truth.shape[0]}, not {t} frames of a film "
            "side by side; say in config.json how many frames the set's films have"
        )
    films = _like(truth, folder, methods)
    missing = [m for m in methods if m not in films]
    shorter = min(truth.shape[1] // t, truth.shape[0])
    largest = min(shorter, SIDES[0], (LONGEST - t) * shorter // truth.shape[1])  # t: rounding
    alone = _embedded(truth, {}, t, largest / shorter, missing)
    # A first guess saves encoding everything at every side; a film and its difference weigh about two truths.
    guess = largest * (room / (alone.bytes * (1 + 2 * len(films)))) ** 0.6
    sides = [largest, *(side for side in SIDES if side < largest)]
    tries = [side for side in sides if side <= guess] or sides[-1:]
    film = alone
    for side in tries:
        film = _embedded(truth, films, t, side / shorter, missing)
        if film.bytes <= room:
            break
    return film


def _like(truth: np.ndarray, folder: Path, methods: list[str]) -> dict[str, np.ndarray]:
    """Method -> its strip, for those that have one."""
    films = {m: _read(folder / f"{m}.webp") for m in methods if (folder / f"{m}.webp").is_file()}
    for method, strip in films.items():
        if strip.shape != truth.shape:
            raise ValueError(
                f"{folder / method}.webp is {strip.shape[1]}x{strip.shape[0]} and the truth's film "
                f"{truth.shape[1]}x{truth.shape[0]}; evaluate that clip anew"
            )
    return films


def _embedded(
    truth: np.ndarray, films: dict[str, np.ndarray], t: int, scale: float, missing: list[str]
) -> Film:
    height, whole = truth.shape[:2]
    native = (whole // t, height)
    width, height = (max(1, round(n * scale)) for n in native)

    def embed(strip: np.ndarray, quality: int) -> str:
        frames = strip.shape[1] // native[0]
        picture = Image.fromarray(strip).resize((width * frames, height), Image.Resampling.BOX)
        return _address(picture, quality if min(width, height) >= SMALL else None)

    strips = [Strip("", embed(truth, 85), "", True)]
    for method, film in films.items():
        gap = np.abs(film.astype(np.int16) - truth)
        first, last = gap[:, : native[0]], gap[:, -native[0] :]
        # The given frames of nearly all methods are the truth's own, whose strip is there already.
        ends = bool(first.any() or last.any())
        inner = slice(None) if ends else slice(native[0], whole - native[0])
        grey = (gap[..., 0] + gap[..., 1] + gap[..., 2]) / 3  # int16 holds the sum
        seen = (grey * GAIN).clip(0, 255).astype(np.uint8)
        strips.append(Strip(method, embed(film[:, inner], 85), embed(seen[:, inner], 60), ends))
    return Film(strips, t, width, height, native, missing)


def _read(path: Path) -> np.ndarray:
    """A strip [H, t W, 3] uint8."""
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise ValueError(f"{path} cannot be read as a picture ({error}); evaluate that clip anew") from error


def _address(picture: Image.Image, quality: int | None) -> str:
    """A picture as a `data:` address of WebP; None: lossless."""
    file = io.BytesIO()
    options = {"lossless": True} if quality is None else {"quality": quality}
    # method 2 takes half of 4's time, and 2 % more bytes.
    picture.save(file, "WEBP", method=2, **options)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")
