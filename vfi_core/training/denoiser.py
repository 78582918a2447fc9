"""Train a denoiser on a pool of latents: the tiny base from scratch, or an adapter on a frozen base."""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportGeneralTypeIssues=false
# diffusers annotates only its tuple returns, and torch every submodule as Tensor | Module.

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import DistributedType
from torch import Tensor, nn

from ..adapter import Adapter, Options, save_adapter
from ..svd.adapted import AdapterModules, check_base, head_dim_of
from ..svd.load import SVD
from .launch import start_accelerator
from .loop import train_denoiser
from .pool import LatentPool
from .run_state import whole
from .settings import TrainConfig, ValidationConfig
from .trainable import adapter_key, checkpoint_activations, new_modules
from .validation import Films
from .watch import Diverged

DIMENSIONS = ("block_out_channels", "layers_per_block", "num_attention_heads", "cross_attention_dim")
"""What tells one base U-Net from another, written into an adapter for whoever holds the file alone."""


def train_base(
    svd: SVD,
    pool: LatentPool,
    config: TrainConfig,
    training: Mapping[str, Any],
    out: Path,
    log: Callable[[str], None] = print,
    validation: ValidationConfig | None = None,
    accelerator: Accelerator | None = None,
) -> SVD:
    """Train the tiny base's U-Net and image encoder from scratch as image-to-video, in place."""
    trained = nn.ModuleDict({"unet": svd.unet, "image_encoder": svd.image_encoder}).requires_grad_(True)
    accelerator = accelerator or start_accelerator(config, svd.unet.device, out)
    films = films_of(svd, None, validation, training, out, accelerator)
    checkpoint_activations(config, svd.unet)
    average = train_denoiser(
        svd, None, Options(), trained, pool, config, training, out, accelerator, log, films
    )
    with torch.no_grad():
        for name, p in trained.named_parameters():
            p.copy_(average[name]).requires_grad_(False)
    return svd


def train_adapter(
    svd: SVD,
    options: Options,
    pool: LatentPool,
    config: TrainConfig,
    training: Mapping[str, Any],
    out: Path,
    log: Callable[[str], None] = print,
    start: Adapter | None = None,
    validation: ValidationConfig | None = None,
    accelerator: Accelerator | None = None,
) -> Adapter:
    """Train an adapter on the frozen ``svd``, from step 0 or from another's weights, and return it (not yet
    written).

    Raises ValueError for a ``start`` of other options or on another base, and where the run diverges; the
    last good state is then also there as an adapter to start from.
    """
    accelerator = accelerator or start_accelerator(config, svd.unet.device, out)
    checkpoint_activations(config, svd.unet)  # before the encoder's trunk is copied off it
    modules = new_modules(svd, options, config.seed)
    if start is not None:
        _begin_from(start, svd, options, modules)
    films = films_of(svd, modules, validation, training, out, accelerator)

    def adapter_of(average: Mapping[str, Tensor]) -> Adapter:
        tensors = {adapter_key(name): value for name, value in average.items()}
        described = dict(training) | {
            "steps": config.steps,
            "noise": dataclasses.asdict(config.noise),
            "base": svd.name,
            "base_dimensions": {name: svd.unet.config[name] for name in DIMENSIONS},
        }
        return Adapter(options, tensors, head_dim_of(svd.unet), described)

    try:
        average = train_denoiser(
            svd, modules, options, modules, pool, config, training, out, accelerator, log, films
        )
    except Diverged as stop:
        if stop.kept is None:
            raise
        good = out / "last_good.safetensors"
        if accelerator.is_main_process:
            save_adapter(adapter_of({n: whole(t) for n, t in stop.kept.items()}), good, torch.float32)
        raise ValueError(f"{stop}, from the last good state with start = '{good}'") from stop
    return adapter_of({name: whole(value) for name, value in average.items()})


def films_of(
    svd: SVD,
    modules: AdapterModules | None,
    validation: ValidationConfig | None,
    training: Mapping[str, Any],
    out: Path,
    accelerator: Accelerator,
) -> Films | None:
    """What is drawn meanwhile, if anything. Raises ValueError under FSDP, where no process has a model."""
    if validation is None or not validation.every:
        return None
    if accelerator.distributed_type == DistributedType.FSDP:
        raise ValueError(
            "validation films need a whole model on one device, not FSDP's shards; use every = 0"
        )
    return Films(svd, modules, validation, training, out)


def _begin_from(start: Adapter, svd: SVD, options: Options, modules: AdapterModules) -> None:
    trainable = {n: p for n, p in modules.named_parameters() if p.requires_grad}
    if start.options != options:
        raise ValueError(f"{start.name} was trained with other options; give its own preset and options")
    check_base(svd.unet, start)
    if differ := sorted({adapter_key(n) for n in trainable} ^ set(start.tensors)):
        raise ValueError(f"{start.name} was trained on other layers ({differ[0]}); begin without it")
    with torch.no_grad():
        for name, p in trainable.items():
            p.copy_(start.tensors[adapter_key(name)])
