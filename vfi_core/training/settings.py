"""`[train]` and `[validation]` of a configuration: how long, in which numbers, what is looked at."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import torch

from .noise import NoiseLaw
from .schedule import COURSES

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
OPTIMISERS = ("adamw", "adamw8bit")


@dataclass(frozen=True)
class TrainConfig:
    """How long, how fast, and in which numbers; the same for the base and the adapters.

    batch                   clips of one step, over all devices and all accumulated parts
    accumulate              parts in which each device computes its share of a step, one after the other
    course                  of the learning rate after the warmup: `cosine`, to a twentieth; `constant`
    ema                     of the weights that are kept; 0 keeps the last ones
    precision               of the computation; what is trained stays float32. bfloat16 pays on a processor
                            with bfloat16 matrix instructions, float16 needs a GPU
    base_precision          of the frozen base's weights: float32, or ``precision``
    gradient_checkpointing  compute activations twice rather than hold them
    cuda_graphs             record the U-Net's passes once and replay them, on one GPU: for a model so small
                            that the GPU waits for Python
    optimiser               `adamw`; `adamw8bit` keeps its moments in 8 bits (package bitsandbytes)
    explode                 a run stops once its loss has been above this many times its median for a while
    tensorboard             scalars and validation films for TensorBoard, under OUT/tensorboard
    """

    steps: int = 3000
    batch: int = 16
    accumulate: int = 1
    lr: float = 5.0e-4
    warmup: int = 100
    course: str = "cosine"
    weight_decay: float = 1.0e-2
    clip_norm: float = 1.0
    ema: float = 0.998
    precision: str = "float32"
    base_precision: str = "float32"
    gradient_checkpointing: bool = False
    cuda_graphs: bool = False
    optimiser: str = "adamw"
    seed: int = 1
    save_every: int = 200
    explode: float = 10.0
    tensorboard: bool = False
    noise: NoiseLaw = field(default_factory=NoiseLaw)

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "warmup", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; use at least 1")
        if self.lr < 0 or self.clip_norm <= 0:
            raise ValueError(f"lr {self.lr}, clip_norm {self.clip_norm}: use 0 or more, and more than 0")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema is {self.ema}; use 0 or more, less than 1")
        if self.explode <= 1:
            raise ValueError(f"explode is {self.explode}; use more than 1")
        if self.cuda_graphs and self.gradient_checkpointing:
            raise ValueError("cuda_graphs cannot record gradient_checkpointing; leave one of them out")
        _one_of("precision", self.precision, PRECISIONS)
        _one_of("optimiser", self.optimiser, OPTIMISERS)
        _one_of("course", self.course, COURSES)
        if self.base_precision not in ("float32", self.precision):
            raise ValueError(
                f"base_precision is {self.base_precision!r} with precision {self.precision!r}; "
                f"use float32 or the same for both"
            )

    def part(self, processes: int) -> int:
        """Clips a process computes at once. Raises ValueError where the batch does not divide."""
        parts = processes * self.accumulate
        if self.batch % parts:
            raise ValueError(
                f"a batch of {self.batch} does not divide into {parts} equal parts ({processes} processes, "
                f"accumulate {self.accumulate}); use a multiple of {parts}"
            )
        return self.batch // parts


@dataclass(frozen=True)
class ValidationConfig:
    """Films drawn every so many steps with the averaged weights, under OUT/validation; 0 for none.

    keyframes  pairs of pictures to go between
    films      whose first frames are drawn anew from the first and the last of them, and compared
    steps, seed  of the sampling
    """

    every: int = 0
    keyframes: tuple[tuple[str, ...], ...] = ()
    films: tuple[str, ...] = ()
    steps: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if self.every < 0 or self.steps < 1:
            raise ValueError(f"every {self.every}, steps {self.steps}: use 0 or more, and 1 or more")
        if self.every and not self.keyframes and not self.films:
            raise ValueError("nothing is named to validate on; give keyframes = [[first, last]] or films")
        for pair in self.keyframes:
            if len(pair) != 2:
                raise ValueError(f"keyframes holds {list(pair)}; give pairs [first, last] of pictures")


def _one_of(name: str, value: str, known: Collection[str]) -> None:
    if value not in known:
        raise ValueError(f"{name} is {value!r}; use one of {', '.join(known)}")
