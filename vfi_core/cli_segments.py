"""A film's segments on disk while it is drawn: what is finished is not drawn again, whatever happens."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from .media import Source
    from .svd.interpolate import DrawSegment
    from .timeline import Segment, Timeline


@dataclass(frozen=True)
class Segments:
    """The segments of one film, each a folder of PNG files beside it, named by all that it depends on.

    out       the film
    alike     what else than seed, length and keyframes a segment depends on, as text
    places    number of a segment -> its folder, once `draw` has been there
    """

    out: Path
    alike: str
    source: Source
    timeline: Timeline
    places: dict[int, Path] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.out.absolute().with_name(f".{self.out.name}.segments")

    def draw(self, draw: DrawSegment, efforts: Mapping[int, int], seeds: Mapping[int, int]) -> None:
        """Draw what is not there yet. Two keyframes and one segment are in memory.

        efforts  number of a segment -> how often ``draw`` calls its ``step``
        seeds    number of a segment -> its seed
        """
        from tqdm import tqdm

        from .media import write_film
        from .timeline import film_frames

        # disable=None: a bar on a terminal only
        bar = tqdm(desc="interpolating", unit="step", total=sum(efforts.values()), leave=False, disable=None)

        def step() -> None:
            bar.update()

        def segment(segment: Segment, first: Tensor, last: Tensor) -> Tensor:
            seed = seeds[segment.number]
            name = f"{segment.number:05d}-{self._digest(segment.length, seed, first, last)}"
            place = self.places[segment.number] = self.folder / name
            if place.is_dir():
                bar.update(efforts[segment.number])
            else:
                frames = draw(segment.length, first.float() / 255, last.float() / 255, seed, step)
                self.folder.mkdir(exist_ok=True)
                write_film((frames[1:-1] * 255).round().clamp(0, 255).to(first.dtype), place, 1)
            return first.expand(segment.length, *first.shape)  # of the right shape: nobody looks

        try:
            with bar:
                for _ in film_frames(self.timeline, self.source.frames(), segment):
                    pass
        except KeyboardInterrupt:
            kept = sum(place.is_dir() for place in self.places.values())
            if not kept:
                raise
            raise KeyboardInterrupt(
                f"{kept} of {len(efforts)} segments are kept; the same command goes on from there"
            ) from None
        finally:
            if self.folder.is_dir() and not self._kept():
                self.forget()

    def film(self) -> Iterator[Tensor]:
        """The film frame by frame, [H, W, 3] uint8, read from the disk."""
        import torch

        from .media import read_picture
        from .timeline import film_frames

        def segment(segment: Segment, first: Tensor, last: Tensor) -> Tensor:
            between = [read_picture(path) for path in sorted(self.places[segment.number].iterdir())]
            return torch.stack([first, *between, last])

        return film_frames(self.timeline, self.source.frames(), segment)

    def forget(self) -> None:
        """Take everything away."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _kept(self) -> list[Path]:
        """Finished ones, whoever drew them; a killed process leaves an unfinished one under a dot."""
        if not self.folder.is_dir():
            return []
        return [place for place in self.folder.iterdir() if not place.name.startswith(".")]

    def _digest(self, length: int, seed: int, *pictures: Tensor) -> str:
        digest = hashlib.sha256(f"{self.alike} {length} {seed}".encode())
        for picture in pictures:
            digest.update(f" {tuple(picture.shape)} ".encode())
            digest.update(picture.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]
