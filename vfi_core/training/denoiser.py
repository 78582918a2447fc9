"""Train a denoiser on a pool of latents: the tiny base from scratch, or an adapter on a frozen base."""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportGeneralTypeIssues=false
# diffusers annotates only its tuple returns, and torch every submodule as Tensor | Module.

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, autocast, nn

from ..adapter import PRESETS, Adapter, Options
from ..svd.adapted import AdapterModules, check_base, head_dim_of
from ..svd.load import SVD
from .loss import NoiseLaw, denoising_loss
from .pool import LatentPool
from .run_state import digest, load_run, save_run
from .schedule import warm_cosine

DIMENSIONS = ("block_out_channels", "layers_per_block", "num_attention_heads", "cross_attention_dim")
"""What tells one base U-Net from another, written into an adapter for whoever holds the file alone."""


@dataclass(frozen=True)
class TrainConfig:
    """How long and how fast; the same for the base and the adapters."""

    steps: int = 3000
    batch: int = 16
    lr: float = 5.0e-4
    warmup: int = 100
    weight_decay: float = 1.0e-2
    clip_norm: float = 1.0
    ema: float = 0.998
    bfloat16: bool = False  # autocast: pays on a processor with bfloat16 matrix instructions
    seed: int = 1
    save_every: int = 200
    noise: NoiseLaw = field(default_factory=NoiseLaw)

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "warmup", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; use at least 1")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema is {self.ema}; use 0 or more, less than 1")


def train_denoiser(
    svd: SVD,
    modules: AdapterModules | None,
    options: Options,
    trainable: Mapping[str, nn.Parameter],
    pool: LatentPool,
    config: TrainConfig,
    training: Mapping[str, Any],
    out: Path,
    log: Callable[[str], None] = print,
) -> dict[str, Tensor]:
    """The moving average of ``trainable`` after the run under ``out``; a killed run goes on where it was.

    Raises ValueError where the loss is no longer finite; the last good state stays on disk.
    """
    device = next(iter(trainable.values())).device
    optimiser = torch.optim.AdamW(
        trainable.values(), lr=config.lr, betas=(0.9, 0.99), weight_decay=config.weight_decay
    )
    average = {name: p.detach().clone() for name, p in trainable.items()}
    state = {f"now.{n}": p for n, p in trainable.items()} | {f"average.{n}": a for n, a in average.items()}
    begun = [svd.vae, svd.unet, svd.image_encoder] + ([] if modules is None else [modules])
    fingerprint = repr((config, options, sorted(training.items(), key=str), pool.fingerprint, digest(*begun)))
    path = out / "run.safetensors"
    first = load_run(path, state, {"adamw": optimiser}, fingerprint)

    began, losses = time.time(), []
    with short_attention(svd.unet, modules):
        for step in range(first, config.steps):
            g = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
            latents, ends = pool.draw(config.batch, g, device)
            with autocast(device.type, torch.bfloat16, enabled=config.bfloat16):
                loss = denoising_loss(svd, modules, options, latents, ends, config.noise, training, g)
            if not torch.isfinite(loss):
                raise ValueError(
                    f"the loss is {loss.item()} at step {step + 1}; lower lr ({config.lr}) and run it again"
                )
            for group in optimiser.param_groups:
                group["lr"] = config.lr * warm_cosine(step, config.steps, config.warmup)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(trainable.values(), config.clip_norm)
            if not torch.isfinite(norm):
                raise ValueError(f"the gradient is {norm.item()} at step {step + 1}; lower lr ({config.lr})")
            optimiser.step()
            decay = min(config.ema, (step + 1) / (step + 10))
            with torch.no_grad():
                for name, p in trainable.items():
                    average[name].lerp_(p, 1 - decay)

            losses.append(loss.item())
            if (step + 1) % 50 == 0:
                recent = sum(losses[-50:]) / len(losses[-50:])
                left = (time.time() - began) / (step + 1 - first) * (config.steps - step - 1)
                log(f"{step + 1}/{config.steps} loss {recent:.4f}, {left / 60:.1f} min left")
            if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
                save_run(path, step + 1, state, {"adamw": optimiser}, fingerprint)
    return average


@contextlib.contextmanager
def short_attention(*roots: nn.Module | None) -> Iterator[None]:
    """Temporal attention as plain products meanwhile, on a CPU: over a handful of frames that takes a quarter
    off a whole step (1.37 s to 1.01 s for the miniature) against the fused kernel.
    """
    layers = [
        module
        for root in roots
        if root is not None and next(root.parameters()).device.type == "cpu"
        for name, module in root.named_modules()
        if isinstance(module, Attention) and "temporal" in name
    ]
    kept = [layer.processor for layer in layers]
    try:
        for layer in layers:
            layer.set_processor(AttnProcessor())
        yield
    finally:
        for layer, processor in zip(layers, kept, strict=True):
            layer.set_processor(processor)


def train_base(
    svd: SVD,
    pool: LatentPool,
    config: TrainConfig,
    training: Mapping[str, Any],
    out: Path,
    log: Callable[[str], None] = print,
) -> SVD:
    """Train the tiny base's U-Net and image encoder from scratch as image-to-video, in place."""
    trainable = {
        f"{part}.{name}": p.requires_grad_(True)
        for part, model in (("unet", svd.unet), ("image_encoder", svd.image_encoder))
        for name, p in model.named_parameters()
    }
    average = train_denoiser(svd, None, Options(), trainable, pool, config, training, out, log)
    with torch.no_grad():
        for name, p in trainable.items():
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
) -> Adapter:
    """Train an adapter on the frozen ``svd``, from step 0 or from another's weights, and return it (not yet
    written).

    Raises ValueError for a ``start`` of other options or on another base.
    """
    modules = new_modules(svd, options, config.seed)
    trainable = {n: p for n, p in modules.named_parameters() if p.requires_grad}
    if start is not None:
        if start.options != options:
            raise ValueError(f"{start.name} was trained with other options; give its own preset and options")
        check_base(svd.unet, start)
        if differ := sorted({adapter_key(n) for n in trainable} ^ set(start.tensors)):
            raise ValueError(f"{start.name} was trained on other layers ({differ[0]}); begin without it")
        with torch.no_grad():
            for name, p in trainable.items():
                p.copy_(start.tensors[adapter_key(name)])
    average = train_denoiser(svd, modules, options, trainable, pool, config, training, out, log)
    tensors = {adapter_key(name): value for name, value in average.items()}
    described = dict(training) | {
        "steps": config.steps,
        "noise": dataclasses.asdict(config.noise),
        "base": svd.name,
        "base_dimensions": {name: svd.unet.config[name] for name in DIMENSIONS},
    }
    return Adapter(options, tensors, head_dim_of(svd.unet), described)


def new_modules(svd: SVD, options: Options, seed: int) -> AdapterModules:
    """An untrained adapter's modules, ready to train: all of its own weights, none of the base's."""
    modules = AdapterModules(svd.unet, options)
    modules.requires_grad_(True)
    if options.encoder_weights == "lora":
        trunk = modules.encoder.trunk
        trunk.requires_grad_(False)
        # Cross-attention to one token has nothing to choose between, and to a zero token nothing to say.
        idle = (".attn2.",) if options.encoder_input == "keyframes" else (".attn2.to_q", ".attn2.to_k")
        layers = [
            name
            for name, layer in trunk.named_modules()
            if isinstance(layer, (nn.Linear, nn.Conv2d)) and name != "conv_in"
            if not any(part in name for part in idle)
        ]
        lora = LoraConfig(r=options.rank, lora_alpha=options.alpha, target_modules=layers, lora_dropout=0.0)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            inject_adapter_in_model(lora, trunk)
    return modules


def adapter_key(parameter: str) -> str:
    """A module's parameter name in the adapter file: peft's LoRA pairs lose their wrapping."""
    if ".lora_" not in parameter:
        return parameter
    path = parameter.removeprefix("encoder.trunk.")
    return "encoder.lora." + path.replace(".default.weight", ".weight")


def preset(name: str, overrides: Mapping[str, Any]) -> Options:
    """A preset's options with single ones replaced. Raises ValueError for an unknown preset or option."""
    if name not in PRESETS:
        raise ValueError(f"unknown preset '{name}' (use {' or '.join(PRESETS)})")
    if unknown := sorted(set(overrides) - {f.name for f in dataclasses.fields(Options)}):
        raise ValueError(f"unknown option '{unknown[0]}'")
    return dataclasses.replace(PRESETS[name], **overrides)
