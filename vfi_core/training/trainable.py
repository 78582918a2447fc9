"""What of an adapter is trained, and in which numbers: modules on a base, ready for a loop."""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportGeneralTypeIssues=false
# diffusers annotates only its tuple returns, and torch every submodule as Tensor | Module.

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from ..adapter import PRESETS, Options
from ..svd.adapted import AdapterModules
from ..svd.load import SVD
from .settings import TrainConfig


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
    for p in modules.parameters():
        if p.requires_grad:
            p.data = p.data.to(torch.promote_types(p.dtype, torch.float32))  # 16 bits lose small steps
    return modules


def adapter_key(parameter: str) -> str:
    """A module's parameter name in the adapter file: peft's LoRA pairs lose their wrapping."""
    if ".lora_" not in parameter:
        return parameter
    path = parameter.removeprefix("encoder.trunk.")
    return "encoder.lora." + path.replace(".default.weight", ".weight")


def checkpoint_activations(config: TrainConfig, unet: nn.Module) -> None:
    """diffusers' own gradient checkpointing, on or off, of the U-Net and what is copied off it."""
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    else:
        unet.disable_gradient_checkpointing()


def preset(name: str, overrides: Mapping[str, Any]) -> Options:
    """A preset's options with single ones replaced. Raises ValueError for an unknown preset or option."""
    if name not in PRESETS:
        raise ValueError(f"unknown preset '{name}' (use {' or '.join(PRESETS)})")
    if unknown := sorted(set(overrides) - {f.name for f in dataclasses.fields(Options)}):
        raise ValueError(f"unknown option '{unknown[0]}'")
    return dataclasses.replace(PRESETS[name], **overrides)
