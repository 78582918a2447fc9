"""The index of the films: what is known of every frame once each film has been looked through, once.

Legend: n frames of all films, H W pixels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..cuts import THRESHOLD, gap_distances, signature
from .films import Film
from .ordered import in_order
from .shards import Shards

CUT, HELD, END = 1, 2, 4
"""What the gap behind a frame is: a scene's end, a picture that stays, the film's end."""

STILL = 0.1 / 255  # mean change of a signature: 98.4 % of re-encoded held frames, 5.2 % of gaps in real films
SMALL = 8  # side of the grey pictures motion is judged by
SHARD_BYTES, SHARD_FILMS = 256 << 20, 256  # of the films looked through between two saves

Facts = dict[str, np.ndarray]


@dataclass(frozen=True)
class Footage:
    """The films that are whole, and of all their frames, one film after the other:

    times    [n]  when each is shown, as `Film.at` takes it
    gaps     [n]  CUT, HELD and END of the gap behind each
    small    [n, 64] uint8  each in grey, 8 x 8
    begins   [films]  each film's first frame
    skipped  a sentence for each film that is not whole
    digest   of every film's name and of its files' names, sizes and times
    """

    films: list[Film]
    times: np.ndarray
    gaps: np.ndarray
    small: np.ndarray
    begins: np.ndarray
    skipped: list[str]
    digest: str


def look_through(
    films: Sequence[Film],
    folder: Path,
    workers: int,
    most: float,
    log: Callable[[str], None],
    held_out: Sequence[str] = (),
) -> Footage:
    """The footage of ``films``, kept under ``folder``: what has been looked through once is not again.

    A film that is not whole is named in the log as it is met, counted in the end, and written to
    ``folder``.parent / skipped.txt.
    most      the share of films that may be so
    held_out  names of those that are not among ``films``, told where the folder is of other ones
    Raises ValueError where more are, where none is left, and where the films are no longer those of the
    folder.
    """
    stamps = [film.stamps() for film in films]
    listed = repr([(film.name, files) for film, files in zip(films, stamps, strict=True)])
    digest = hashlib.sha256(listed.encode()).hexdigest()[:16]
    groups = list(_groups([sum(max(0, size) for _, size, _ in files) for files in stamps]))
    settings = {"format": "svd-vfi-footage/1", "held_out": list(held_out), "films": digest}
    shards = Shards(folder, settings)
    missing = shards.missing(len(groups))
    if missing:
        log(f"looking through {sum(len(groups[i]) for i in missing)} films for cuts, held frames and damage")
    found = in_order(_Examined(films), [film for i in missing for film in groups[i]], workers)
    for i in missing:
        facts, faults = [], {}
        for film in groups[i]:
            result = next(found)
            if isinstance(result, str):
                faults[film] = f"{films[film].name}: {result}"
                log(f"skipped {faults[film]}")
            else:
                facts.append((film, result))
        shards.write(i, _joined(facts), json.dumps(faults))
        if len(groups) > 1:
            log(f"looked through {groups[i][-1] + 1} of {len(films)} films")
    footage = _gathered(films, shards, len(groups), digest)
    _report(footage, len(films), folder.parent / "skipped.txt", most, log)
    return footage


def examine(film: Film) -> Facts:
    """What `Footage` holds of one film. Raises ValueError for a film that is not whole."""
    times, held, small = [], [], []
    before, size = None, None

    def seen() -> Iterator[Tensor]:
        nonlocal before, size
        for time, frame in film.frames():
            if size not in (None, frame.shape):
                raise ValueError(f"{film.path} changes its size at frame {len(times)}; make all frames one")
            now, size = signature(frame), frame.shape
            if before is not None:
                held.append(bool((now - before).abs().mean() < STILL))
            times.append(time)
            small.append((F.adaptive_avg_pool2d(now.mean(0, keepdim=True), SMALL) * 255).round().byte())
            before = now
            yield now.movedim(0, 2)  # a signature is its own signature

    cuts = [far > THRESHOLD for far in gap_distances(seen())]
    gaps = [CUT * cut + HELD * still for cut, still in zip(cuts, held, strict=True)] + [END]
    return {
        "times": np.array(times, np.int64),
        "gaps": np.array(gaps, np.uint8),
        "small": torch.cat(small).flatten(1).numpy(),
    }


@dataclass(frozen=True)
class _Examined:
    films: Sequence[Film]

    def __call__(self, index: int) -> Facts | str:
        try:
            return examine(self.films[index])
        except (ValueError, OSError) as error:
            return " ".join(str(error).split())


def _groups(sizes: Sequence[int]) -> Iterator[list[int]]:
    """Numbers of the films that are saved together."""
    total, group = 0, []
    for i, size in enumerate(sizes):
        if group and (total + size > SHARD_BYTES or len(group) == SHARD_FILMS):
            yield group
            total, group = 0, []
        total, group = total + size, [*group, i]
    if group:
        yield group


def _joined(facts: list[tuple[int, Facts]]) -> dict[str, Tensor]:
    empty = {"times": np.zeros(0, np.int64), "gaps": np.zeros(0, np.uint8)}
    parts = [f for _, f in facts] or [empty | {"small": np.zeros((0, SMALL**2), np.uint8)}]
    joined = {name: torch.from_numpy(np.concatenate([p[name] for p in parts])) for name in parts[0]}
    joined["films"] = torch.tensor([film for film, _ in facts], dtype=torch.int64)
    joined["counts"] = torch.tensor([len(f["times"]) for _, f in facts], dtype=torch.int64)
    return joined


def _gathered(films: Sequence[Film], shards: Shards, number: int, digest: str) -> Footage:
    parts, skipped = [], []
    for i in range(number):
        file, note = shards.open(i)
        parts.append({name: file.get_tensor(name).numpy() for name in file.keys()})  # noqa: SIM118
        skipped += json.loads(note).values()
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Footage(
        films=[films[i] for i in whole["films"]],
        times=whole["times"],
        gaps=whole["gaps"],
        small=whole["small"],
        begins=np.concatenate([[0], whole["counts"].cumsum()[:-1]]).astype(np.int64),
        skipped=skipped,
        digest=digest,
    )


def _report(footage: Footage, number: int, path: Path, most: float, log: Callable[[str], None]) -> None:
    skipped = len(footage.skipped)
    if skipped:
        path.write_text("".join(f"{line}\n" for line in footage.skipped), encoding="utf-8")
    log(
        f"{len(footage.films)} films of {len(footage.times)} frames; {skipped} of {number} skipped"
        + (f", named in {path}" if skipped else "")
    )
    if not footage.films or skipped > most * number:
        raise ValueError(
            f"{skipped} of {number} films are not whole, the first being {footage.skipped[0]}; mend them, or "
            f"raise max_corrupt ({most:g})"
        )
