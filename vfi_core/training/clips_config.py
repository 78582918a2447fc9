"""What a configuration says of its clips: where they come from and how they are drawn."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ClipsConfig:
    """`[clips]`; `pool` of them are encoded once for the base and the adapters.

    root             a folder or a list, see `films.find_films`; empty where --data says it
    held_out         films, or folders of them, that are never drawn
    size             pixels, [height, width] or one number for both
    frames           of a clip: a number, or [fewest, most], drawn for every eight clips
    stride           from one frame of a clip to the next in its film: a number, or [least, most], drawn
    reversal, flips  half of the clips backwards; half of them mirrored
    crops            a part of the picture, from the whole to the clip's own size, anywhere; else its middle
    favour_motion    0 draws all windows alike, 1 in proportion to how much their ends differ
    skip_cuts, skip_held  leave out windows across a cut, and those in which time stands still or stumbles;
                     windows.json is taken at its word in both, and has strides of its own
    procedural       share of procedural clips; half of them pan over a still of a real film
    plain            share of the procedural clips like drawn pictures: surfaces near one colour, no still
    motion           scales the procedural clips' paths; at 1 a shape moves up to two thirds of the frame
    max_corrupt      share of the films that may be damaged and skipped
    workers          processes that read films and draw clips ahead; what they draw does not depend on it
    cache            folder of the index and the encoded clips, for several runs; the run's own if empty
    """

    root: str = ""
    held_out: tuple[str, ...] = ()
    size: tuple[int, ...] = (64,)
    frames: tuple[int, ...] = (7,)
    stride: tuple[int, ...] = (1,)
    reversal: bool = True
    flips: bool = True
    crops: bool = True
    favour_motion: float = 0.5
    skip_cuts: bool = True
    skip_held: bool = True
    procedural: float = 0.0
    plain: float = 0.0
    motion: float = 1.0
    max_corrupt: float = 0.5
    pool: int = 4000
    seed: int = 1
    workers: int = 0
    cache: str = ""

    def __post_init__(self) -> None:
        for name, least, step in (("size", 64, 64), ("frames", 3, 1), ("stride", 1, 1)):
            value = getattr(self, name)
            if len(value) not in (1, 2) or any(v < least or v % step for v in value):
                raise ValueError(
                    f"{name} is {list(value)}; use one number or two, {least} or more"
                    + (f", in multiples of {step}" if step > 1 else "")
                )
        for name in ("frames", "stride"):
            if getattr(self, name)[0] > getattr(self, name)[-1]:
                raise ValueError(f"{name} is {list(getattr(self, name))}; write the lesser first")
        for name, least, most in (
            ("favour_motion", 0, 8),
            ("procedural", 0, 1),
            ("plain", 0, 1),
            ("motion", 0, 2),
            ("max_corrupt", 0, 1),
            ("pool", 1, 10**9),
            ("workers", 0, 1024),
        ):
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} is {getattr(self, name)}; use {least} to {most}")

    @property
    def height_width(self) -> tuple[int, int]:
        return self.size[0], self.size[-1]

    @property
    def most_frames(self) -> int:
        return self.frames[-1]
