"""`svd-vfi train`: a model or an adapter from a TOML file, or, with --plan, what that would take."""

from __future__ import annotations

import argparse
from pathlib import Path

from .cli_interpolate import choose_device


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `train`."""
    parser.add_argument(
        "config", type=Path, metavar="CONFIG.toml", help="what to train, on what, and how long"
    )
    parser.add_argument(
        "-o", "--out", type=Path, help="folder for checkpoints and the result (the file's own)"
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of clips (the configuration's own)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (auto)")
    parser.add_argument(
        "--plan",
        action="store_true",
        help="print parameters, memory and the time of a step, and train nothing",
    )


def main(args: argparse.Namespace) -> None:
    """Train, or plan. Under `accelerate launch` on as many devices as it was told of."""
    device = choose_device(args.device)
    if args.plan:
        from .training.planned import plan_recipe

        print("\n".join(plan_recipe(args.config, device)))
        return
    from .training import run

    try:
        path = run(args.config, args.out, str(device), args.data)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("what was saved is kept; the same command goes on from there") from None
    if path is not None:
        print(f"{path.resolve()}: trained")
