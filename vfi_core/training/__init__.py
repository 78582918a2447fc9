"""Training: one configuration in, one file out. `svd-vfi train CONFIG.toml -o FOLDER` calls `run`."""

from __future__ import annotations

from pathlib import Path


def run(config: Path, out: Path | None = None, device: str = "cpu", data: Path | None = None) -> Path | None:
    """Train what ``config`` describes under ``out`` (its own name by default) and return the finished file;
    None from a process beside the main one.

    data  the folder of training clips, in place of the configuration's own
    A run that was killed goes on where it stopped. Raises ValueError for a configuration that cannot be used.
    """
    from .recipes import run_recipe

    return run_recipe(Path(config), Path(config).with_suffix("") if out is None else Path(out), device, data)
