"""Residuals enter diffusers' SVD U-Net by hooks, for the calls of one context; the U-Net is never forked."""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportGeneralTypeIssues=false
# diffusers annotates only its tuple returns, and torch every submodule as Tensor | Module.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from diffusers import UNetSpatioTemporalConditionModel
from torch import Tensor, nn


@contextmanager
def adding_residuals(unet: UNetSpatioTemporalConditionModel, residuals: Sequence[Tensor]) -> Iterator[None]:
    """Add the condition encoder's residuals to the skip tensors and the middle block's output.

    residuals  one [(b t), c, h, w] per skip tensor in the order they are made, then the middle one
    Raises ValueError where their number or a shape is not the U-Net's; gone on exit, also after an exception.
    """
    *skips, middle = residuals
    wanted = sum(len(block.resnets) for block in unet.up_blocks)
    if len(skips) != wanted:
        raise ValueError(f"{len(skips)} residuals were given for {wanted} skip tensors")

    def after_middle(_module: nn.Module, _args: tuple, output: Tensor) -> Tensor:
        return _added(output, middle, "the middle block")

    def before_up(start: int, block: int):
        def hook(_module: nn.Module, args: tuple, kwargs: dict[str, Any]):
            tensors = kwargs["res_hidden_states_tuple"]
            mine = skips[start : start + len(tensors)]
            added = tuple(_added(a, b, f"up block {block}") for a, b in zip(tensors, mine, strict=True))
            return args, kwargs | {"res_hidden_states_tuple": added}

        return hook

    handles = []
    try:
        handles.append(unet.mid_block.register_forward_hook(after_middle))
        end = len(skips)
        for i, block in enumerate(unet.up_blocks):
            end -= len(block.resnets)
            handles.append(block.register_forward_pre_hook(before_up(end, i), with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _added(tensor: Tensor, residual: Tensor, where: str) -> Tensor:
    if tensor.shape != residual.shape:
        raise ValueError(
            f"a residual of shape {list(residual.shape)} cannot be added at {where}: {list(tensor.shape)}"
        )
    return tensor + residual.to(tensor.dtype)
