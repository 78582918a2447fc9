"""The adapted U-Net's passes as CUDA graphs: a model as small as the miniature leaves a GPU waiting for
Python, which launches a few thousand kernels a step. Recorded once, all of them are one launch.
"""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# diffusers annotates only its tuple returns, and torch every submodule as Tensor | Module.

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..clipspan import ClipSpan
from ..svd.adapted import predict


class GraphedPredict:
    """`svd.adapted.predict` of one U-Net and its modules, forwards and backwards, recorded at its first call
    for each shape; a result is overwritten by the next.
    """

    def __init__(self) -> None:
        self._recorded: dict[Any, Any] = {}

    def __call__(
        self,
        unet: nn.Module,
        modules: nn.Module | None,
        *inputs: Any,
        hooks: ExitStack | None = None,  # none are left: a replay calls no Python
    ) -> Tensor:
        """Inputs and result as `predict`'s, up to its ``span``."""
        *tensors, span = inputs
        key = (span, *(t.shape for t in tensors))
        if key not in self._recorded:
            self._recorded[key] = _record(_Pass(unet, modules, span), tensors)
        return self._recorded[key](*tensors)


class _Pass(nn.Module):
    def __init__(self, unet: nn.Module, adapter: nn.Module | None, span: ClipSpan) -> None:
        super().__init__()
        self.unet, self.adapter, self.span = unet, adapter, span

    def forward(self, *tensors: Tensor) -> Tensor:
        return predict(self.unet, self.adapter, *tensors, self.span)


def _record(module: nn.Module, tensors: list[Tensor]) -> Any:
    examples = tuple(t.detach().clone().requires_grad_(t.requires_grad) for t in tensors)
    on, dtype = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    # Weights cast to 16 bits once and kept would be those of the recording for ever.
    with torch.autocast("cuda", dtype, enabled=on, cache_enabled=False):
        return torch.cuda.make_graphed_callables(module, examples, allow_unused_input=True)
