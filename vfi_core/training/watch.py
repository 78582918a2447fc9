"""A run that comes apart is stopped, not trained to its end."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from statistics import median

from torch import Tensor

from .settings import TrainConfig

WINDOW = 200  # sound losses the median is taken over
FEWEST = 20  # of them before there is one
PATIENCE = 20  # steps in a row above it; one noisy batch is no explosion
SKIPPED = 50  # float16 lowers its scale by skipping steps with overflown gradients: some, not all


class Diverged(ValueError):
    """A run that cannot be trusted any more.

    kept  the averaged weights of the last good state, where there is one
    """

    kept: Mapping[str, Tensor] | None = None


class Watch:
    """Sees every step's loss and gradient norm, and raises Diverged once the run cannot be trusted.

    The loss or (but for float16) the gradient is not finite; or the loss has been above ``config.explode``
    times the running median of the sound ones for `PATIENCE` steps.
    """

    def __init__(self, config: TrainConfig, before: Iterable[float] = ()) -> None:
        self.config = config
        self._sound: deque[float] = deque(maxlen=WINDOW)
        self._high = self._overflown = 0
        for step, loss in enumerate(before):  # a run that goes on knows what was usual
            self.see(step + 1, loss, 0.0)

    @property
    def calm(self) -> bool:
        """Whether the last loss was sound: only such a state is worth keeping."""
        return not self._high and not self._overflown

    def see(self, step: int, loss: float, norm: float) -> None:
        """One step, counted from 1; before its update, which must not happen where this raises."""
        if not math.isfinite(loss):
            raise Diverged(f"the loss is {loss} at step {step}; {self._advice()}")
        self._overflown = 0 if math.isfinite(norm) else self._overflown + 1
        if self._overflown > (SKIPPED if self.config.precision == "float16" else 0):
            raise Diverged(f"the gradient is {norm} at step {step}; {self._advice()}")
        usual = median(self._sound) if len(self._sound) >= FEWEST else math.inf
        if loss <= self.config.explode * usual:
            self._sound.append(loss)
            self._high = 0
            return
        self._high += 1
        if self._high >= PATIENCE:
            raise Diverged(
                f"the loss has been above {self.config.explode:g} times its median of {usual:.3g} for "
                f"{PATIENCE} steps, {loss:.3g} at step {step}; {self._advice()}"
            )

    def _advice(self) -> str:
        c = self.config
        wider = " or use precision = 'bfloat16'" if c.precision == "float16" else ""
        return (
            f"lower lr ({c.lr:g}), lengthen warmup ({c.warmup}){wider}, and begin in a new folder "
            "(`cache` saves encoding the clips again)"
        )
