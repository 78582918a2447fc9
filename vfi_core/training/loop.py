"""The training loop of a denoiser: the tiny base's, or an adapter's on a frozen base.

Every random draw is a function of (seed, step) and made for the whole batch; a process computes its slice of
it, in one part or several. So the losses are those of one device, however many there are, and a killed run
goes on to the bits it would have reached.
"""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportGeneralTypeIssues=false, reportOptionalMemberAccess=false
# diffusers annotates only its tuple returns, and torch every submodule as Tensor | Module.

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..adapter import Options
from ..svd.adapted import AdapterModules, predict
from ..svd.load import SVD
from .batch import Batch
from .graphed import GraphedPredict
from .journal import LOSSES, Journal, Row
from .launch import ScalerState, spare_frozen
from .loss import denoising_loss
from .noise import Draws, draw
from .optimiser import build_optimiser
from .ordered import one_ahead
from .pool import LatentPool
from .rows import read_rows
from .run_state import digest, load_run, save_run
from .schedule import COURSES
from .settings import TrainConfig
from .short_attention import short_attention
from .validation import Films
from .watch import Diverged, Watch

STATE = "run.safetensors"


class Objective(nn.Module):
    """The denoising loss as a module that holds what is trained, for accelerate to wrap; the frozen base
    stays outside of it.
    """

    def __init__(
        self,
        svd: SVD,
        modules: AdapterModules | None,
        options: Options,
        trained: nn.Module,
        training: Mapping[str, Any],
        cuda_graphs: bool,
    ) -> None:
        super().__init__()
        self.trained = trained
        self._given = (svd, modules, options, training)  # a tuple, which nn.Module does not look into
        self._predict = GraphedPredict() if cuda_graphs else predict

    def forward(self, batch: Batch, draws: Draws, hooks: contextlib.ExitStack) -> Tensor:
        """See `denoising_loss`; ``hooks`` are to be closed after the backward pass."""
        svd, modules, options, training = self._given
        return denoising_loss(svd, modules, options, batch, draws, training, hooks, self._predict)


def train_denoiser(
    svd: SVD,
    modules: AdapterModules | None,
    options: Options,
    trained: nn.Module,
    pool: LatentPool,
    config: TrainConfig,
    training: Mapping[str, Any],
    out: Path,
    accelerator: Accelerator,
    log: Callable[[str], None] = print,
    films: Films | None = None,
) -> dict[str, Tensor]:
    """The moving average of the parameters of ``trained`` that want a gradient, by name, after the run under
    ``out``; a killed run goes on where it was.

    films  drawn now and then with the averaged weights
    Raises Diverged, a ValueError, where the loss cannot be trusted any more; the last good state stays on
    disk.
    """
    begun = [svd.vae, svd.unet, svd.image_encoder] + ([] if modules is None else [modules])
    fingerprint = repr((config, options, sorted(training.items(), key=str), pool.fingerprint, digest(*begun)))
    objective = Objective(svd, modules, options, trained, training, config.cuda_graphs)
    device = next(trained.parameters()).device
    spare_frozen(accelerator, objective)
    optimiser = build_optimiser(config, [p for p in trained.parameters() if p.requires_grad], device)
    objective, optimiser = accelerator.prepare(objective, optimiser)
    trainable = {name: p for name, p in trained.named_parameters() if p.requires_grad}
    average = {name: p.detach().clone() if config.ema else p for name, p in trainable.items()}
    state = {f"now.{n}": p for n, p in trainable.items()}
    state |= {f"average.{n}": a for n, a in average.items()} if config.ema else {}
    scaler = ScalerState(accelerator.scaler)
    path = out / STATE
    first = load_run(path, state | scaler.tensors, {"adamw": optimiser}, fingerprint)
    scaler.put_back()

    main = accelerator.is_main_process
    before = [Row.of(texts) for texts in read_rows(out / LOSSES, first)]
    journal = Journal(out, before, first, config.steps, accelerator, log) if main else None
    watch = Watch(config, [row.loss for row in before])
    course = COURSES[config.course]
    ahead = one_ahead if device.type == "cuda" else map  # a processor has nothing else to wait for
    steps = range(first, config.steps)
    drawn = ahead(lambda step: list(parts_of_step(svd, pool, config, training, step, accelerator)), steps)
    began = time.perf_counter()
    try:
        with short_attention(svd.unet, modules):
            for step, parts in zip(steps, drawn, strict=True):
                lr = config.lr * course(step, config.steps, config.warmup)
                for group in optimiser.param_groups:
                    group["lr"] = lr
                optimiser.zero_grad(set_to_none=True)
                loss = add_gradients(objective, parts, config.accumulate, device, accelerator)
                norm = accelerator.clip_grad_norm_(trainable.values(), config.clip_norm).item()
                watch.see(step + 1, loss, norm)
                optimiser.step()
                if config.ema:
                    decay = min(config.ema, (step + 1) / (step + 10))
                    with torch.no_grad():
                        for name, p in trainable.items():
                            average[name].lerp_(p, 1 - decay)

                last = step + 1 == config.steps
                if journal is not None:
                    journal.note(Row(step + 1, loss, lr, norm, time.perf_counter() - began))
                    if films is not None and films.due(step + 1):
                        with averaged(trainable, average), accelerator.autocast():
                            films.draw(step + 1, accelerator, journal.say)
                if last or ((step + 1) % config.save_every == 0 and watch.calm):
                    if journal is not None:
                        journal.write()
                    scaler.read()
                    save_run(path, step + 1, state | scaler.tensors, {"adamw": optimiser}, fingerprint, main)
                began = time.perf_counter()
    except Diverged as stop:
        if load_run(path, state, {}, fingerprint):
            stop.kept = average
        raise
    finally:
        if journal is not None:
            journal.close()
    return {name: a.detach() for name, a in average.items()}


def parts_of_step(
    svd: SVD,
    pool: LatentPool,
    config: TrainConfig,
    training: Mapping[str, Any],
    step: int,
    accelerator: Accelerator,
) -> Iterator[tuple[Batch, Draws]]:
    """This process's slices of a step's clips and of what chance decided of them."""
    g = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
    batch = pool.draw(config.batch, g, torch.device("cpu"))
    sigmas = (svd.config["sigma_min"], svd.config["sigma_max"])
    draws = draw(config.noise, batch, sigmas, training["augmentation"], g)
    size = config.part(accelerator.num_processes)
    for i in range(config.accumulate):
        begin = (accelerator.process_index * config.accumulate + i) * size
        chosen = slice(begin, begin + size)
        yield batch.part(chosen), draws.part(chosen)


def add_gradients(
    objective: nn.Module,
    parts: Sequence[tuple[Batch, Draws]],
    count: int,
    device: torch.device,
    accelerator: Accelerator,
) -> float:
    """The loss over a step's whole batch, of every process, its gradients added to the parameters'.

    parts  ``count`` equal ones of this process
    """
    loss = torch.zeros((), device=device)
    for i, (batch, draws) in enumerate(parts):
        with contextlib.ExitStack() as hooks:
            if i + 1 < count:  # processes sum their gradients once a step
                hooks.enter_context(accelerator.no_sync(objective))
            part = objective(batch.to(device), draws, hooks) / count
            accelerator.backward(part)  # inside the hooks: checkpointing replays them
        loss += part.detach()
    return accelerator.reduce(loss, "mean").item()


@contextlib.contextmanager
def averaged(trainable: Mapping[str, nn.Parameter], average: Mapping[str, Tensor]) -> Iterator[None]:
    """The averaged weights in the modules meanwhile; nothing is copied, each pair changes places."""

    def swap() -> None:
        for name, p in trainable.items():
            p.data, average[name].data = average[name].data, p.data

    swap()
    try:
        yield
    finally:
        swap()
