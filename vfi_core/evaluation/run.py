"""Every method on every clip: drawn, kept, measured, one after the other.

Knows no model: a method is a function of clips, see `Method`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from . import frechet
from .clips import Clip, ClipSet, Size, as_floats, fit, thirds
from .frechet import Features
from .methods import Method
from .metrics import FrameMetric, eight_bits, flows, score
from .results import Results, Row, shrink

SMALLEST = 16  # SSIM's window takes 11 pixels, OpenCV's DIS flow 12


def look(clips: ClipSet, tick: Callable[[], object] = lambda: None) -> tuple[list[float], dict[str, Any]]:
    """The motion of every clip, and what config.json says of the set: every clip is read once, before work.

    Raises ValueError for a set without clips, clips of different lengths, or too small ones.
    """
    motions, frames, sizes, sources = [], 0, [], []
    for name in clips.names:
        read = clips.read(name)
        clip = Clip(name, as_floats(fit(read, clips.size)))
        count, height, width = clip.frames.shape[:3]
        if frames and count != frames:
            raise ValueError(
                f"the clip '{name}' of {clips.name} has {count} frames and others {frames}; leave it out"
            )
        if min(height, width) < SMALLEST:
            raise ValueError(f"the clip '{name}' is {width}x{height}; use {SMALLEST} pixels or more a side")
        frames = count
        sizes.append((height, width))
        sources.append(read.shape[1:3])
        motions.append(clip.motion)
        tick()
    if not motions:
        raise ValueError(f"the set '{clips.name}' has no clips; give a folder that holds some")
    seen = repr([clips.names, [f"{motion:.3f}" for motion in motions]])
    return motions, {
        "layout": clips.layout,
        "clips": len(clips),
        "frames": frames,
        "size": list(sizes[0]) if len(set(sizes)) == 1 else None,
        "about": _about(clips, frames, sizes, sources),
        "kept_at": max(shrink((frames, *size)) for size in set(sizes)),
        "digest": hashlib.sha256(seen.encode()).hexdigest()[:16],
    }


def run(
    methods: Sequence[Method],
    sets: Sequence[ClipSet],
    motions: Mapping[str, list[float]],
    results: Results,
    frame_metrics: Mapping[str, FrameMetric] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    calls: Callable[[], int] = lambda: 0,
) -> None:
    """Fill ``results`` with what is not there yet.

    motions        of every set's clips, from `look`
    frame_metrics  "lpips" and "flip", where they can be had
    progress       called with (methods run so far, all)
    calls          how often a model has been asked so far; methods that ask one get it counted
    Raises ValueError for a method that returns wrong frames.
    """
    total, done = len(methods) * sum(map(len, sets)), 0
    for clips in sets:
        ranks = thirds(motions[clips.name])
        for i, name in enumerate(clips.names):
            todo = [m for m in methods if not results.has(clips.name, name, m.slug)]
            done += len(methods) - len(todo)
            progress(done, total)
            if not todo:
                continue
            clip = clips[i]
            of_clip = flows(clip.frames)
            results.keep_film(clips.name, name, "truth", clip.frames)
            for method in todo:
                row = _measure(method, clips, clip, of_clip, ranks[i], results, frame_metrics or {}, calls)
                if row is not None:
                    results.add(row)
                done += 1
                progress(done, total)


def set_metrics(
    methods: Sequence[Method], sets: Sequence[ClipSet], results: Results, networks: Mapping[str, Features]
) -> list[str]:
    """FID and FVD of every method's films in a set, into the configuration; sentences about what is null.

    networks  "fid", "fvd": the features behind each that is wanted
    """
    told = []
    for clips in sets:
        about = results.config["sets"][clips.name]
        mine = results.config["set_metrics"].setdefault(clips.name, {})
        for metric, features in networks.items():
            if metric == "fvd" and about["frames"] < frechet.SHORTEST:
                told.append(f"FVD of {clips.name} is null: I3D takes {frechet.SHORTEST} frames or more.")
                continue
            if about["kept_at"] > 1:
                told.append(
                    f"{metric.upper()} of {clips.name} is null: its films were too wide to keep whole."
                )
                continue
            for method in methods:
                names = [n for n in clips.names if results.has(clips.name, n, method.slug)]
                if len(names) < 2:
                    told.append(
                        f"{metric.upper()} of {clips.name} is null for {method.label}: it takes two clips."
                    )
                    continue
                if metric not in mine.setdefault(method.slug, {}):
                    truth, films = (_films(results, clips.name, names, s) for s in ("truth", method.slug))
                    mine[method.slug][metric] = frechet.distance(truth, films, features, metric == "fvd")
                    results.write_config()
    return told


def _films(results: Results, set: str, clips: list[str], method: str) -> Iterator[np.ndarray]:
    return (results.read_film(set, clip, method) for clip in clips)


def _measure(
    method: Method,
    clips: ClipSet,
    clip: Clip,
    of_clip: Any,
    third: str,
    results: Results,
    frame_metrics: Mapping[str, FrameMetric],
    calls: Callable[[], int],
) -> Row | None:
    start, asked = time.perf_counter(), calls()
    drawn = method.draw(clips, clip)
    seconds, asked = time.perf_counter() - start, calls() - asked
    if drawn is None:
        return None
    try:
        film = eight_bits(drawn)
        scores = score(film, clip.frames, of_clip, **frame_metrics)
    except ValueError as error:
        raise ValueError(f"'{method.label}' on the clip '{clip.name}': {error}") from error
    if len(film) < len(clip.frames):
        film = torch.cat([clip.frames[:1], film, clip.frames[-1:]])
    results.keep_film(clips.name, clip.name, method.slug, film)
    return Row(clips.name, clip.name, clip.motion, third, method.slug, scores, seconds, asked)


def _about(clips: ClipSet, frames: int, sizes: list[Size], sources: list[Size]) -> str:
    """One line under the table's head: what was scored, at what size, and what was brought there."""
    text = f"{clips.layout}; {frames} frames, {frames - 2} of them generated; scored at {_written(sizes)}"
    if sources != sizes:
        what = "truth and published frames" if clips.films else "the truth"
        larger = any(
            s > o
            for size, source in zip(sizes, sources, strict=True)
            for s, o in zip(size, source, strict=True)
        )
        how = "cut and ENLARGED: --size 0 gives figures that compare" if larger else "by area averaging"
        text += f"; {what} scaled from {_written(sources)}, {how}"
    return " ".join([f"{text}.", *clips.notes])


def _written(sizes: list[Size]) -> str:
    each = [f"{width}x{height}" for height, width in dict.fromkeys(sizes)]
    return " and ".join(each) if len(each) < 3 else f"{len(each)} sizes"
