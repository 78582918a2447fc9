"""The methods that `svd-vfi evaluate --method` names, made into functions of clips."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .cli_interpolate import find_adapter, tell_origin
from .config import METHODS

if TYPE_CHECKING:
    from .evaluation.clips import ClipSet
    from .evaluation.methods import Method
    from .svd.load import SVD
    from .svd.settings import Settings

WEIGHTLESS = ("nearest", "linear", "dis", "minterpolate")
THROUGH_VAE = ("linear-vae", "vae")


def default_methods(model: str) -> tuple[list[str], list[str]]:
    """All methods that fit the model ('tiny', 'none' or a file), and sentences about those left out."""
    from .evaluation.baselines import has_minterpolate
    from .tiny import ADAPTERS

    names = [name for name in WEIGHTLESS if name != "minterpolate" or has_minterpolate()]
    left_out = [] if has_minterpolate() else ["minterpolate was left out: PyAV's ffmpeg has no such filter."]
    if model != "none":
        names += ["linear-vae", "base", "base:fused", *(sorted(ADAPTERS) if model == "tiny" else ()), "vae"]
    return names, left_out


def check_names(names: Sequence[str], model: str) -> None:
    """Raises ValueError for a method that cannot be, before anything is loaded."""
    from .tiny import ADAPTERS

    for name in names:
        if name in WEIGHTLESS or _folder(name):
            continue
        if model == "none":
            raise ValueError(f"--method {name} needs a model and --model is none; leave out one of them")
        base, _ = _split(name)
        if base not in (*THROUGH_VAE, "base", *ADAPTERS) and not Path(base).exists():
            known = ", ".join((*WEIGHTLESS, *THROUGH_VAE, "base", *ADAPTERS))
            raise ValueError(
                f"no method '{name}' (use {known}, an adapter's file, either with :{', :'.join(METHODS)}, or "
                "LABEL=DIR)"
            )


def make_methods(
    names: Sequence[str], sets: Sequence[ClipSet], svd: SVD | None, settings: Settings | None
) -> tuple[list[Method], list[str]]:
    """The methods without weights, those published with the sets, then the others as they were named.

    Gives sentences about missing films, too. Raises ValueError where two would have the same files.
    """
    from .evaluation.baselines import BASELINES
    from .evaluation.methods import between, published, somebodys

    told: list[str] = []
    methods = [between(name, *BASELINES[name]) for name in names if name in WEIGHTLESS] + published(sets)
    for name in names:
        if folder := _folder(name):
            method, missing = somebodys(*folder, sets)
            methods.append(method)
            told += missing
        elif name not in WEIGHTLESS:
            assert svd is not None and settings is not None  # `check_names` was asked
            methods.append(_of_model(name, svd, settings))
    slugs = ["truth"]
    for method in methods:
        if method.slug in slugs:
            raise ValueError(f"two methods would be called '{method.slug}'; leave one out, or rename a file")
        slugs.append(method.slug)
    return methods, told


def files_of(names: Sequence[str], model: str) -> list[tuple[str, int, int]]:
    """Name, size and time of every file of weights or of somebody's films: another one there makes another
    evaluation.
    """
    from .tiny import ADAPTERS, TINY
    from .weights import files_behind

    paths = [] if model == "none" else [TINY if model == "tiny" else Path(model)]
    paths = [path for path in paths if path.exists()]  # a hub's id is its own name
    files = [
        file for path in paths for file in (sorted(path.rglob("*.safetensors")) if path.is_dir() else [path])
    ]
    for name in names:
        if folder := _folder(name):
            files += sorted(path for path in folder[1].rglob("*") if path.is_file())
            continue
        base, _ = _split(name)
        path = ADAPTERS.get(base) or Path(base)
        if name not in WEIGHTLESS and path.exists():
            files += files_behind(path)
    stats = [(file.name, file.stat()) for file in dict.fromkeys(files)]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def _of_model(name: str, svd: SVD, settings: Settings) -> Method:
    from .evaluation.methods import between, inside
    from .svd.interpolators import linear_through_vae, svd_interpolator, vae_round_trip
    from .svd.settings import method_of

    if name == "vae":
        return inside(name, "VAE round trip of the truth", lambda film: vae_round_trip(svd, film))
    if name == "linear-vae":
        return between(name, "linear through the VAE", linear_through_vae(svd))
    base, method = _split(name)
    adapter = None if base == "base" else find_adapter(base, True)
    tell_origin(adapter)
    own = method_of(adapter)
    stem = base if adapter is None else Path(base).stem
    label = stem if adapter is None else f"adapter {stem}"
    called, label = (stem, label) if method in (None, own) else (f"{stem}:{method}", f"{label}, {method}")
    return between(
        called, label, svd_interpolator(svd, dataclasses.replace(settings, method=method or own), adapter)
    )


def _split(name: str) -> tuple[str, str | None]:
    """'base:fused' -> ('base', 'fused'); a colon of a path stays where it is."""
    base, colon, method = name.rpartition(":")
    return (base, method) if colon and method in METHODS else (name, None)


def _folder(name: str) -> tuple[str, Path] | None:
    """'LABEL=DIR' -> (label, folder)."""
    label, equals, folder = name.partition("=")
    return (label, Path(folder)) if equals and label and not Path(name).exists() else None
