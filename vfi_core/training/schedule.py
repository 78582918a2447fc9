"""The learning rate's course, the same for every trainer."""

from __future__ import annotations

import math


def warm_cosine(step: int, steps: int, warmup: int) -> float:
    """The factor on the learning rate: linear over ``warmup`` steps, then a cosine to a twentieth."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
    return min(1.0, (step + 1) / warmup) * (0.05 + 0.95 * cosine)


def warm_constant(step: int, _steps: int, warmup: int) -> float:
    """Linear over ``warmup`` steps, then 1."""
    return min(1.0, (step + 1) / warmup)


COURSES = {"cosine": warm_cosine, "constant": warm_constant}
