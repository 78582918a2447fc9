"""`svd-vfi evaluate`: methods on clips, into a folder of numbers, films, tables and a report."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import re
import sys
from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cli_interpolate import choose_device, parse_guidance, version, whole_number
from .cli_methods import check_names, default_methods, files_of, make_methods

if TYPE_CHECKING:
    import torch

    from .evaluation.clips import ClipSet
    from .evaluation.frechet import Features
    from .evaluation.methods import Method
    from .evaluation.metrics import FrameMetric
    from .svd.load import SVD

ALWAYS = ("psnr", "ssim", "tof", "sharpness", "endpoint")
WANTED = ("flip", "lpips", "fid", "fvd")
PACKAGES = ("torch", "numpy", "opencv-python-headless", "scikit-image", "av", "diffusers", "flip-evaluator")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `svd-vfi evaluate`."""
    parser.add_argument(
        "--method",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="nearest, linear, dis, minterpolate; linear-vae and vae (round trips of the model's); base, a "
        "bundled adapter's name or an adapter's file, each with :METHOD if need be; LABEL=DIR, films of "
        "another method, a subfolder of pictures or a video for each clip (all that fit the model)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        action="append",
        required=True,
        help="DAVIS (zip or folder), pairs <id>_input.mp4 and <id>_gt.mp4 with published films, Vimeo-90K, "
        "SNU-FILM, UCF-101, a folder of clips (manifest.json, or subfolders of pictures or videos), or of "
        "training videos (windows.json and videos/, with --held-out); may be given several times",
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
    parser.add_argument(
        "--limit", type=whole_number(1), help="clips of each set at most, the first ones (all)"
    )
    parser.add_argument("--model", default="tiny", help="'tiny', a checkpoint, a folder, or 'none' (tiny)")
    parser.add_argument(
        "--frames",
        type=whole_number(3),
        help="frames of a clip, the given two included, where the data set does not say (the model's, or 7)",
    )
    parser.add_argument(
        "--clip-frames", type=whole_number(3), help="frames drawn at once at most (the model's)"
    )
    parser.add_argument(
        "--size",
        type=_size,
        help="side of a square, or WIDTHxHEIGHT, that clips are brought to (the model's; 0: as they are)",
    )
    parser.add_argument("--steps", type=whole_number(1, 1000), default=25, help="sampling steps (25)")
    parser.add_argument(
        "--seed", type=whole_number(0, 2**63 - 1), default=0, help="seed of noise and bootstrap (0)"
    )
    parser.add_argument(
        "--guidance", type=parse_guidance, metavar="G", help="one number, or LOW:HIGH (the adapter's own)"
    )
    parser.add_argument(
        "--reference", metavar="NAME", help="the method that differences are taken against (linear)"
    )
    parser.add_argument(
        "--metrics",
        nargs="+",
        choices=(*ALWAYS, *WANTED),
        help=f"which of {', '.join(WANTED)} must be had besides {', '.join(ALWAYS)} (those that can)",
    )
    parser.add_argument(
        "--lpips-weights", type=Path, metavar="FILE", help="AlexNet as torchvision publishes it"
    )
    parser.add_argument("--fid-weights", type=Path, metavar="FILE", help="Inception as TorchScript")
    parser.add_argument("--fvd-weights", type=Path, metavar="FILE", help="I3D as TorchScript")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (auto)")
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        required=True,
        help="folder for results.csv, config.json, table.md, films/ and report.html; one that a stopped run "
        "left is gone on with",
    )


def main(args: argparse.Namespace) -> None:
    """Print the tables; args.out gets all there is. Raises ValueError for wrong input."""
    from tqdm import tqdm

    from .evaluation.report import write_report
    from .evaluation.results import Results
    from .evaluation.run import look, run, set_metrics
    from .evaluation.table import tables

    names, notes = (args.method, []) if args.method else default_methods(args.model)
    check_names(names, args.model)
    device = choose_device(args.device)
    frame_metrics, networks, nulls = _metrics(args, device)
    svd = _load(args.model, device)
    sets = _sets(args, svd)
    methods, missing = make_methods(names, sets, svd, _settings(args))
    reference = _reference(args.reference, methods)
    with tqdm(desc="looking", unit="clip", total=sum(map(len, sets)), leave=False, disable=None) as bar:
        looked = {clips.name: look(clips, bar.update) for clips in sets}
    config = {
        "command": ["svd-vfi", *sys.argv[1:]],
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": _versions(),
        "settings": _told(args, svd, names, sorted(frame_metrics)),
        "sets": {name: about for name, (_, about) in looked.items()},
        "methods": {method.slug: method.label for method in methods},
        "reference": reference,
        "notes": [*notes, *missing, *nulls],
        "set_metrics": {},
    }
    results = Results(args.out, config)
    motions = {name: motion for name, (motion, _) in looked.items()}
    with tqdm(desc="evaluating", unit="film", leave=False, disable=None) as bar:  # None: only on a terminal

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        try:
            run(methods, sets, motions, results, frame_metrics, progress, _counter(svd))
            results.config["notes"] += set_metrics(methods, sets, results, networks)
        except KeyboardInterrupt:
            kept = "what was measured is kept; the same command goes on from there"
            raise KeyboardInterrupt(kept) from None
    results.write_config()
    text = tables(results.rows, results.config, args.seed)
    (args.out / "table.md").write_text(text + "\n", encoding="utf-8")
    print(f"{text}\n\nwritten to {args.out / 'table.md'}")
    print(f"look at {write_report(args.out)}")


def _metrics(
    args: argparse.Namespace, device: torch.device
) -> tuple[dict[str, FrameMetric], dict[str, Features], list[str]]:
    """Measures of frames and networks of sets that can be had, and a sentence for each that cannot.

    Raises ValueError for one that was asked for by name and cannot.
    """
    from .evaluation import frechet, perceptual

    asked = None if args.metrics is None else set(args.metrics)
    frames: dict[str, FrameMetric] = {}
    networks: dict[str, Features] = {}
    nulls: list[str] = []
    backbone = perceptual.find_backbone(args.lpips_weights)
    if asked is None or "flip" in asked:
        if find_spec("flip_evaluator"):
            frames["flip"] = perceptual.flip
        else:
            nulls.append("FLIP is null: the package flip-evaluator is not installed.")
    if asked is None or "lpips" in asked or args.lpips_weights:
        if backbone:
            frames["lpips"] = perceptual.load_lpips(backbone, device)
        else:
            nulls.append(
                f"LPIPS is null: AlexNet's weights are not there (torchvision's {perceptual.ALEXNET} in "
                "torch hub's cache, or --lpips-weights FILE)."
            )
    for name, path, load in (
        ("fid", args.fid_weights, frechet.load_inception),
        ("fvd", args.fvd_weights, frechet.load_i3d),
    ):
        if path is not None:
            networks[name] = load(path, device)
        elif asked is None or name in asked:
            network = "Inception" if name == "fid" else "I3D"
            nulls.append(f"{name.upper()} is null: no weights of {network} (--{name}-weights FILE).")
    if asked and nulls:
        raise ValueError(nulls[0].replace(" is null:", " was asked for by name, but").rstrip("."))
    return frames, networks, nulls


def _load(model: str, device: torch.device) -> SVD | None:
    if model == "none":
        return None
    import torch

    from .svd.load import load_svd
    from .tiny import TINY

    return load_svd(TINY if model == "tiny" else model, device, torch.float32)


def _settings(args: argparse.Namespace) -> Any:
    from .svd.settings import Settings

    if args.model == "none":
        return None
    return Settings(steps=args.steps, seed=args.seed, guidance=args.guidance, clip_frames=args.clip_frames)


def _sets(args: argparse.Namespace, svd: SVD | None) -> list[ClipSet]:
    from .evaluation.layouts import Wanted, open_sets

    size = args.size if svd is None or args.size is not None else tuple(svd.config["size"])
    frames = args.frames or (svd.config["frames"] if svd else 7)
    wanted = Wanted(frames, _names(args.held_out), args.per_video)
    sets: list[ClipSet] = []
    for root in args.data:
        for clips in open_sets(root, wanted):
            if clips.name in {other.name for other in sets}:
                raise ValueError(f"two sets are called '{clips.name}'; give folders of different names")
            sets.append(dataclasses.replace(clips, size=size or None, names=clips.names[: args.limit]))
    return sets


def _reference(name: str | None, methods: list[Method]) -> str:
    known = {method.name: method.slug for method in methods}
    if name is None:
        return known.get("linear") or methods[0].slug
    if name not in known:
        raise ValueError(f"the reference '{name}' is none of the methods ({', '.join(known)})")
    return known[name]


def _counter(svd: SVD | None) -> Callable[[], int]:
    """How often the U-Net was called since now."""
    asked = 0

    def count(*_: object) -> None:
        nonlocal asked
        asked += 1

    if svd is not None:
        svd.unet.register_forward_pre_hook(count)
    return lambda: asked


def _told(args: argparse.Namespace, svd: SVD | None, names: list[str], measures: list[str]) -> dict[str, Any]:
    """The settings that the figures depend on, as config.json holds them."""
    own = ("model", "steps", "seed", "guidance", "clip_frames", "held_out", "per_video", "limit")
    return {
        **{name: getattr(args, name) for name in own},
        "trained_frames": svd.config["frames"] if svd else None,
        "measures": measures,
        "weights": files_of(names, args.model),
        "device": args.device,
    }


def _versions() -> dict[str, str]:
    found = {"svd-vfi": version(), "python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _size(text: str) -> tuple[int, int] | tuple[()]:
    """Height, width; empty for 0."""
    match = re.fullmatch(r"([0-9]{1,4})(?:[xX]([0-9]{1,4}))?", text)
    width, height = (int(match[1]), int(match[2] or match[1])) if match else (-1, -1)
    if text == "0":
        return ()
    if not all(1 <= side <= 4096 for side in (width, height)):
        raise argparse.ArgumentTypeError(
            f"'{text}' is no size (use a side, WIDTHxHEIGHT, or 0 for as they are)"
        )
    return height, width


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
