"""The tiny study: the method's options, each trained equally long on the miniature, in pairs.

    python benchmarks/study.py train   OUT --data DIR [--device cuda --jobs 12]
    python benchmarks/study.py measure OUT --data DIR --eval EVAL

benchmarks/study.toml says which options and from how many seeds. Every run is its recipe with one option
changed; a run that is there is not trained again, a film that was measured not drawn again. `measure` writes
OUT/results.csv (a line per run and clip) and OUT/table.md: PSNR of the generated frames in dB, means over
clips and seeds; differences to the unchanged recipe with the same seed and clip, and a 95 % bootstrap
interval over seeds and clips alike, both drawn with replacement.

DIR holds videos/ and windows.json, as for training; EVAL a manifest.json and folders of frames.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vfi_core.adapter import Options, load_adapter, save_adapter
from vfi_core.svd.load import load_svd
from vfi_core.tiny import TINY
from vfi_core.training.config import build, read_toml
from vfi_core.training.denoiser import train_adapter
from vfi_core.training.recipes import AdapterRecipe, conditions_of
from vfi_core.training.trainable import preset

STUDY = read_toml(Path(__file__).with_suffix(".toml"))
SAMPLING_STEPS = 10


@dataclass(frozen=True)
class Run:
    """One training: the recipe with ``option`` set to ``value``, or as it is where option is empty."""

    option: str
    value: str | int
    seed: int
    kind: str

    @property
    def name(self) -> str:
        return f"{self.option or 'recipe'}-{self.value}-{self.seed}" if self.option else f"recipe-{self.seed}"


def runs() -> list[Run]:
    """The unchanged recipe first, then every option's values, each with its seeds."""
    planned = [Run("", "", seed, "decisive") for seed in STUDY["decisive"]["seeds"]]
    for kind in ("decisive", "screening"):
        table = {k: v for k, v in STUDY[kind].items() if k != "seeds"}
        planned += [Run(o, v, s, kind) for o, vs in table.items() for v in vs for s in STUDY[kind]["seeds"]]
    return planned


def options_of(run: Run, recipe: AdapterRecipe) -> Options:
    changed = {run.option: run.value} if run.option else {}
    return preset(recipe.preset, recipe.options | changed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("train", "one", "measure"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--eval", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once")
    parser.add_argument("--run", type=int, help="which of the runs, for `one`")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    {"train": _train_all, "one": _train_one, "measure": _measure}[args.what](args)


def _recipe() -> AdapterRecipe:
    return build(AdapterRecipe, STUDY["recipe"], "study.toml")


def _pool(args: argparse.Namespace, svd: Any, recipe: AdapterRecipe) -> Any:
    from vfi_core.training.clips import open_clips
    from vfi_core.training.pool import latent_pool

    return latent_pool(svd, open_clips(recipe.clips, args.data, args.out), args.out / "pool")


def _train_all(args: argparse.Namespace) -> None:
    """The pool first, by this process; then every run in a process of its own."""
    _pool(args, load_svd(TINY, args.device), _recipe())
    missing = [i for i, run in enumerate(runs()) if not (args.out / f"{run.name}.safetensors").exists()]
    same = [str(args.out), "--data", str(args.data), "--device", args.device]

    def train(i: int) -> int:
        return subprocess.call([sys.executable, __file__, "one", *same, "--run", str(i)])

    with ThreadPoolExecutor(args.jobs) as jobs:
        failed = [runs()[i].name for i, code in zip(missing, jobs.map(train, missing), strict=True) if code]
    if failed:
        sys.exit(f"{len(failed)} runs failed: {', '.join(failed)}")


def _train_one(args: argparse.Namespace) -> None:
    run, recipe = runs()[args.run], _recipe()
    svd = load_svd(TINY, args.device)
    conditions = conditions_of(recipe, svd.config) | {"frames": svd.config["frames"]}
    config = dataclasses.replace(recipe.train, seed=run.seed, save_every=recipe.train.steps)
    folder = args.out / run.name
    folder.mkdir(exist_ok=True)
    pool = _pool(args, svd, recipe)
    adapter = train_adapter(svd, options_of(run, recipe), pool, config, conditions, folder, print)
    save_adapter(adapter, args.out / f"{run.name}.safetensors")


def _measure(args: argparse.Namespace) -> None:
    from vfi_core.evaluation.layouts import Wanted, open_sets
    from vfi_core.evaluation.metrics import psnr
    from vfi_core.svd.interpolators import svd_interpolator
    from vfi_core.svd.settings import Settings

    recipe, svd = _recipe(), load_svd(TINY)
    frames, size = recipe.clips.most_frames, tuple(svd.config["size"])
    wanted = Wanted(frames, recipe.clips.held_out, per_video=2)
    sets = [*open_sets(args.eval, wanted), *open_sets(args.data, wanted)]
    clips = [clip for clips in sets for clip in dataclasses.replace(clips, size=size)]
    path = args.out / "results.csv"
    known: dict[tuple[str, str], float] = {}
    if path.exists():
        with path.open(newline="") as file:
            known = {(r["run"], r["clip"]): float(r["psnr"]) for r in csv.DictReader(file)}
    else:
        path.write_text("run,clip,psnr\n")
    shapes: list[tuple[str, str, Run]] = [(run.name, "", run) for run in runs()]
    for value in STUDY["sampled"]["uncond_hint"]:
        shapes += [(f"uncond_hint-{value}-{r.seed}", value, r) for r in runs() if not r.option]
    for name, uncond_hint, run in shapes:
        left = [clip for clip in clips if (name, clip.name) not in known]
        if not left:
            continue
        path_of_run = args.out / f"{run.name}.safetensors"
        if not path_of_run.exists():
            print(f"{run.name} is not trained yet: left out", flush=True)
            continue
        adapter = load_adapter(path_of_run)
        if uncond_hint:
            options = dataclasses.replace(adapter.options, uncond_hint=uncond_hint)
            adapter = dataclasses.replace(adapter, options=options)
        between = svd_interpolator(svd, Settings(steps=SAMPLING_STEPS), adapter)
        for clip in left:
            film = between(clip.frames[0], clip.frames[-1], frames - 2)
            known[name, clip.name] = float(psnr(film[1:-1], clip.frames[1:-1]).mean())
            with path.open("a", newline="") as file:
                csv.writer(file).writerow([name, clip.name, f"{known[name, clip.name]:.4f}"])
        print(name, f"{np.mean([known[name, c.name] for c in clips]):.2f} dB", flush=True)
    text = _table(known, [clip.name for clip in clips])
    (args.out / "table.md").write_text(text + "\n")
    print(text)


def _table(known: dict[tuple[str, str], float], clips: list[str]) -> str:
    def scores(prefix: str, seeds: list[int]) -> np.ndarray:  # [seeds, clips]
        return np.array([[known[f"{prefix}-{seed}", clip] for clip in clips] for seed in seeds])

    every = STUDY["decisive"]["seeds"]
    base = scores("recipe", every)
    lines = ["| option | value | seeds | PSNR | to the recipe [95 %] |", "|---|---|---|---|---|"]
    spread = ", ".join(f"{m:.2f}" for m in base.mean(1))
    lines.append(f"| (the recipe) | | {len(every)} | {base.mean():.2f} ({spread}) | |")
    for kind in ("decisive", "screening", "sampled"):
        seeds = STUDY[kind].get("seeds", every)
        against = base[[every.index(s) for s in seeds]]
        for option, values in STUDY[kind].items():
            for value in values if option != "seeds" else []:
                if any((f"{option}-{value}-{seed}", clip) not in known for seed in seeds for clip in clips):
                    continue  # not measured yet
                mine = scores(f"{option}-{value}", seeds)
                low, high = _interval(mine - against)
                lines.append(
                    f"| {option} | {value} | {len(seeds)} | {mine.mean():.2f} "
                    f"| {(mine - against).mean():+.2f} [{low:+.2f}, {high:+.2f}] |"
                )
    return "\n".join(lines)


def _interval(differences: np.ndarray, n: int = 10_000) -> tuple[float, float]:
    """The 95 % percentile interval of the mean of [seeds, clips], both drawn with replacement."""
    rng = np.random.default_rng(0)
    seeds, clips = differences.shape
    of_seeds = rng.integers(seeds, size=(n, seeds))
    of_clips = rng.integers(clips, size=(n, clips))
    means = differences[of_seeds[:, :, None], of_clips[:, None, :]].mean((1, 2))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
