"""`svd-vfi evaluate`: the methods without weights and a model with its adapters, on clips, as a table."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .cli_interpolate import choose_device, find_adapter, parse_guidance, tell_origin, whole_number
from .config import METHODS

if TYPE_CHECKING:
    from .evaluation.baselines import Interpolator
    from .evaluation.clips import Clip
    from .evaluation.table import Restorer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `svd-vfi evaluate`."""
    parser.add_argument(
        "--data",
        type=Path,
        action="append",
        required=True,
        help="a folder of clips (manifest.json and folders of PNG frames) or of training videos "
        "(windows.json and videos/, with --held-out); may be given several times",
    )
    parser.add_argument(
        "--held-out",
        nargs="+",
        default=[],
        help="videos that training never saw, or a text file with one a line",
    )
    parser.add_argument(
        "--per-video", type=whole_number(1), default=8, help="windows taken of a held-out video at most (8)"
    )
    parser.add_argument("--model", default="tiny", help="'tiny', a checkpoint, a folder, or 'none' (tiny)")
    parser.add_argument(
        "--adapters", nargs="*", default=[], help="adapter files, Framer's U-Net, or names of bundled ones"
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=METHODS,
        help="of the base and of every adapter (all of the base, held of the adapters)",
    )
    parser.add_argument(
        "--clip-frames", type=whole_number(3), help="frames drawn at once at most (the model's)"
    )
    parser.add_argument(
        "--frames", type=whole_number(3), help="frames of a clip, the given two included (the model's)"
    )
    parser.add_argument(
        "--size",
        type=whole_number(0, 4096),
        help="side of the square clips are brought to (the model's; 0: as they are)",
    )
    parser.add_argument("--steps", type=whole_number(1, 1000), default=25, help="sampling steps (25)")
    parser.add_argument(
        "--seed",
        type=whole_number(0, 2**63 - 1),
        default=0,
        help="seed of noise and bootstrap (0)",
    )
    parser.add_argument(
        "--guidance", type=parse_guidance, metavar="G", help="one number, or LOW:HIGH (the adapter's own)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (auto)")
    parser.add_argument(
        "-o", "--out", type=Path, required=True, help="folder for table.md, results.csv and strips"
    )


def main(args: argparse.Namespace) -> None:
    """Print the table; args.out gets it, its numbers and its strips. Raises ValueError for wrong input."""
    from tqdm import tqdm

    from .evaluation import table
    from .evaluation.baselines import BASELINES

    interpolators: dict[str, Interpolator] = dict(BASELINES)
    restorers: dict[str, Restorer] = {}
    frames, size, calls = args.frames or 7, args.size or None, lambda: 0
    if args.model == "none" and args.adapters:
        raise ValueError(f"--adapters needs a model and --model is none; leave out {' '.join(args.adapters)}")
    if args.model != "none":
        frames, size, calls = _add_model(args, interpolators, restorers)
    sets = _sets(args, frames, size)
    with tqdm(desc="evaluating", unit="film", leave=False, disable=None) as bar:  # None: only on a terminal

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        text = table.run(
            interpolators, sets, args.out, restorers, seed=args.seed, progress=progress, calls=calls
        )
    print(f"{text}\n\nwritten to {args.out / 'table.md'}")


def _add_model(
    args: argparse.Namespace, interpolators: dict[str, Interpolator], restorers: dict[str, Restorer]
) -> tuple[int, int | None, Callable[[], int]]:
    """The model's methods added to both tables; frames and size to measure at, and its calls so far."""
    import torch

    from .svd.interpolators import linear_through_vae, svd_interpolator, vae_round_trip
    from .svd.load import load_svd
    from .svd.settings import Settings, method_of
    from .tiny import TINY

    model = TINY if args.model == "tiny" else args.model
    svd = load_svd(model, choose_device(args.device), torch.float32)
    if args.size is None and svd.config["size"][0] != svd.config["size"][1]:
        raise ValueError(f"the model's size {svd.config['size']} is no square; choose one with --size")
    settings = Settings(
        steps=args.steps, seed=args.seed, guidance=args.guidance, clip_frames=args.clip_frames
    )
    interpolators["linear through the VAE"] = linear_through_vae(svd)
    for name in (None, *args.adapters):
        label = "base" if name is None else f"adapter {Path(name).stem}"
        adapter = None if name is None else find_adapter(name, True)
        own = method_of(adapter)
        methods = dict.fromkeys(args.methods or ()) or (METHODS if name is None else [own])
        for method in methods if own == "held" else [own]:
            full = label if method == own else f"{label}, {method}"
            if full in interpolators:
                raise ValueError(
                    f"two adapters are called '{Path(name or label).stem}'; rename one of the files"
                )
            chosen = dataclasses.replace(settings, method=method)
            interpolators[full] = svd_interpolator(svd, chosen, adapter)
        tell_origin(adapter)
    restorers["VAE round trip of the truth"] = lambda film: vae_round_trip(svd, film)
    size = svd.config["size"][0] if args.size is None else args.size or None
    asked = 0

    def count(*_: object) -> None:
        nonlocal asked
        asked += 1

    svd.unet.register_forward_pre_hook(count)
    return args.frames or svd.config["frames"], size, lambda: asked


def _sets(args: argparse.Namespace, frames: int, size: int | None) -> dict[str, list[Clip]]:
    from .evaluation.clips import read_clips, read_held_out

    sets: dict[str, list[Clip]] = {}
    for root in args.data:
        windows = (root / "windows.json").exists()
        name = "held-out" if windows else root.resolve().name
        if name in sets:
            raise ValueError(f"two sets are called '{name}'; give folders of different names")
        if windows:
            sets[name] = read_held_out(root, _names(args.held_out), frames, size, args.per_video)
        else:
            sets[name] = read_clips(root, frames, size)
    return sets


def _names(held_out: list[str]) -> list[str]:
    """Names of videos; text files among them stand for their lines (not the empty ones and # comments)."""
    names: list[str] = []
    for name in held_out:
        if name.endswith(".txt"):
            try:
                lines = Path(name).read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise ValueError(f"the list of held-out videos {name} cannot be read ({error})") from error
            names += [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        else:
            names.append(name)
    return names
