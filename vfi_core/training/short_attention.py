"""Attention over few tokens, on a processor."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from diffusers.models.attention_processor import Attention, AttnProcessor
from torch import Tensor, nn

SHORT = 64  # tokens


class _Short(AttnProcessor):
    """Plain products over at most SHORT tokens, the layer's own processor over more."""

    def __init__(self, kept: Any) -> None:
        self.kept = kept

    def __call__(self, attn: Attention, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        processor = super().__call__ if hidden_states.shape[1] <= SHORT else self.kept
        return processor(attn, hidden_states, *args, **kwargs)


@contextlib.contextmanager
def short_attention(*roots: nn.Module | None) -> Iterator[None]:
    """Attention over a handful of frames, or of places, as plain products meanwhile, on a CPU: the fused
    kernel's passes are slower there.
    """
    layers = [
        module
        for root in roots
        if root is not None and next(root.parameters()).device.type == "cpu"
        for module in root.modules()
        if isinstance(module, Attention)
    ]
    kept = [layer.processor for layer in layers]
    try:
        for layer, processor in zip(layers, kept, strict=True):
            layer.set_processor(_Short(processor))
        yield
    finally:
        for layer, processor in zip(layers, kept, strict=True):
            layer.set_processor(processor)
