"""`svd-vfi`: interpolate, train, evaluate, inspect. Each command's options and work are in a file of its own.

Exit codes: 0 done; 2 wrong input, told in one sentence; 130 stopped by Ctrl-C. A traceback is a bug of ours.
Nothing heavy is imported before a command runs, so that help is instant.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any, NoReturn

from . import cli_evaluate, cli_inspect, cli_interpolate, cli_train

# The extra of pyproject.toml that brings what a command imports.
EXTRAS = {"interpolate": "headless", "train": "train", "evaluate": "eval", "inspect": "headless"}


def main(argv: list[str] | None = None) -> int:
    """Runs one command line (``sys.argv`` by default) and returns its exit code."""
    try:
        args = _parser().parse_args(argv)
    except ValueError as error:
        return _refuse(error)
    try:
        args.run(args)
    except ValueError as error:
        return _refuse(error)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package == __name__.partition(".")[0]:
            raise
        return _refuse(
            f"the package '{package}' is missing; run: pip install 'svd-vfi[{EXTRAS[args.command]}]'"
        )
    except OSError as error:
        if not error.filename:
            raise
        return _refuse(
            f"{error.filename} cannot be used ({error.strerror}); check the path and its permissions"
        )
    except KeyboardInterrupt as stop:
        print(f"\nsvd-vfi: stopped; {str(stop) or 'nothing half done was left'}", file=sys.stderr)
        return 130
    except RuntimeError as error:
        # torch.OutOfMemoryError, by name: it is a RuntimeError, and torch may be what could not be imported.
        if type(error).__name__ != "OutOfMemoryError":
            raise
        return _refuse("the device is out of memory; use a smaller --size, fewer --frames, or --device cpu")
    return 0


class _Parser(argparse.ArgumentParser):
    """One sentence instead of argparse's usage text; options by their whole names alone."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        "svd-vfi", description="Two frames in, a film out: in-betweening with Stable Video Diffusion."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    interpolate = commands.add_parser("interpolate", help="fill the gaps between keyframes")
    cli_interpolate.add_arguments(interpolate)
    interpolate.set_defaults(run=cli_interpolate.main)

    train = commands.add_parser("train", help="train a model or an adapter from a TOML file")
    cli_train.add_arguments(train)
    train.set_defaults(run=cli_train.main)

    evaluate = commands.add_parser("evaluate", help="measure methods and adapters on clips")
    cli_evaluate.add_arguments(evaluate)
    evaluate.set_defaults(run=cli_evaluate.main)

    inspect = commands.add_parser("inspect", help="say what a checkpoint or an adapter is")
    cli_inspect.add_arguments(inspect)
    inspect.set_defaults(run=cli_inspect.main)
    return parser


def _refuse(reason: Exception | str) -> int:
    print("svd-vfi:", " ".join(str(reason).split()), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
