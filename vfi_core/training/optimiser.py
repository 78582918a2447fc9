"""The optimisers a configuration can name."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from .settings import TrainConfig

BETAS = (0.9, 0.99)


def build_optimiser(
    config: TrainConfig, parameters: Iterable[nn.Parameter], device: torch.device
) -> torch.optim.Optimizer:
    """AdamW, or the same with moments in 8 bits.

    Raises ValueError where the package for 8 bits is missing, or knows no such device.
    """
    settings = {"lr": config.lr, "betas": BETAS, "weight_decay": config.weight_decay}
    if config.optimiser == "adamw":
        # Fused needs no scratch memory of the weights' size; on a processor the plain one is kept as it was.
        return torch.optim.AdamW(parameters, **settings, fused=True if device.type == "cuda" else None)
    if device.type != "cuda":
        raise ValueError(f"optimiser adamw8bit needs a GPU, not {device.type}; use adamw")
    try:
        from bitsandbytes.optim import AdamW8bit  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(
            f"optimiser adamw8bit needs the package bitsandbytes ({error}); install it, or use adamw"
        ) from error
    return AdamW8bit(parameters, **settings)


def moment_bytes(config: TrainConfig, numel: int) -> int:
    """Memory of one tensor's two moments. In 8 bits: blocks of 256 with a float32 scale each, where there
    are 4,096 values or more.
    """
    if config.optimiser == "adamw" or numel < 4096:
        return 2 * 4 * numel
    return 2 * (numel + 4 * -(-numel // 256))
