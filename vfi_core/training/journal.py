"""What a run says of itself while it goes: a bar or lines, losses.csv, loss.png, scalars for TensorBoard."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

from accelerate import Accelerator
from tqdm import tqdm

from ..files import replacing
from .rows import write_rows

LOSSES = "losses.csv"
LATELY = 50  # steps of a line's mean loss, and between two lines


class Row(NamedTuple):
    """One step, counted from 1: the loss over its whole batch, the gradient's norm before clipping."""

    step: int
    loss: float
    lr: float
    grad_norm: float
    seconds: float

    @classmethod
    def of(cls, texts: list[str]) -> Row:
        """A row of losses.csv."""
        step, *values = texts
        return cls(int(step), *map(float, values))


class Journal:
    """Of a run under ``out`` that goes on from ``first`` finished steps. Only the main process has one."""

    def __init__(
        self,
        out: Path,
        rows: list[Row],
        first: int,
        steps: int,
        accelerator: Accelerator,
        log: Callable[[str], None],
    ) -> None:
        self.out, self.rows, self.first, self.steps, self.log = out, rows, first, steps, log
        self._scalars = accelerator.log
        if accelerator.log_with:
            purge = {"tensorboard": {"purge_step": first + 1}}  # what a killed run had drawn beyond its save
            accelerator.init_trackers("tensorboard", init_kwargs=purge)
        # A bar on a terminal, lines in a file.
        self._bar = tqdm(total=steps, initial=first, disable=None, unit="step", dynamic_ncols=True)
        self._began = time.monotonic()

    def note(self, row: Row) -> None:
        """One finished step."""
        self.rows.append(row)
        self._scalars({name: value for name, value in row._asdict().items() if name != "step"}, step=row.step)
        self._bar.set_postfix(loss=f"{self.recent:.4f}", refresh=False)
        self._bar.update()
        if row.step % LATELY == 0 and self._bar.disable:
            left = (time.monotonic() - self._began) / (row.step - self.first) * (self.steps - row.step)
            self.log(f"{row.step}/{self.steps} loss {self.recent:.4f}, {left / 60:.1f} min left")

    def say(self, line: str) -> None:
        """A line, above the bar where there is one."""
        self.log(line) if self._bar.disable else self._bar.write(line)

    @property
    def recent(self) -> float:
        """The mean loss of the last steps."""
        lately = [row.loss for row in self.rows[-LATELY:]]
        return sum(lately) / len(lately)

    def write(self) -> None:
        """losses.csv and loss.png, before the state they belong to."""
        write_rows(self.out / LOSSES, Row._fields, self.rows)
        if self.rows:
            plot_losses(self.rows, self.out / "loss.png")

    def close(self) -> None:
        """After the last step, or where the run stops."""
        self._bar.close()
        self.write()


def plot_losses(rows: list[Row], path: Path) -> None:
    """Every step's loss, faint, and over it the running median of a hundredth of them."""
    from matplotlib.figure import Figure

    rows = rows[:: max(1, len(rows) // 2000)]  # more than a picture has columns
    losses, steps = [row.loss for row in rows], [row.step for row in rows]
    span = max(5, len(rows) // 100)
    smooth = [median(losses[max(0, i - span) : i + span + 1]) for i in range(len(losses))]
    figure = Figure((8, 4.5), dpi=100, layout="constrained")
    axes = figure.subplots()
    axes.semilogy(steps, losses, color="0.8", linewidth=0.8)
    axes.semilogy(steps, smooth, color="tab:blue", linewidth=1.5)
    axes.set(xlabel="step", ylabel="loss (log)", title=f"median {smooth[-1]:.4g} at step {steps[-1]}")
    axes.grid(alpha=0.3)
    with replacing(path) as partial:
        figure.savefig(partial, format="png")
