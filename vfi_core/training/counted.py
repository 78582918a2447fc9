"""Bytes of the tensors that live while something runs: of real ones on any device, or of pretended ones."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the storages made inside of its context: ``live`` bytes now, ``peak`` at most so far.

    What existed before is not counted, nor what kernels take for themselves while they run.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:  # asked of every pretended tensor, over and over
            return func(*args)
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor):
                self._known.add(tensor.untyped_storage())  # if it is not known by now, it was there before
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        self.peak = max(self.peak, self.live)
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage not in self._known:
            self._known.add(storage)
            self.live += storage.nbytes()
            weakref.finalize(storage, self._gone, storage.nbytes())

    def _gone(self, size: int) -> None:
        self.live -= size


def weight_bytes(*modules: nn.Module | None) -> int:
    """Bytes of all parameters and buffers, each storage once."""
    tensors = [t for m in modules if m is not None for t in (*m.parameters(), *m.buffers())]
    return sum({id(t): t.numel() * t.element_size() for t in tensors}.values())


def pretend(mode: FakeTensorMode, modules: Iterable[nn.Module], device: torch.device) -> None:
    """Give modules on the meta device weights that claim to lie on ``device`` and hold nothing, in place.

    A tensor that several modules share stays shared.
    """
    made: dict[int, tuple[Tensor, Tensor]] = {}

    def claimed(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            with mode:
                fake = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
            if isinstance(tensor, nn.Parameter):
                fake = nn.Parameter(fake, requires_grad=tensor.requires_grad)
            made[id(tensor)] = (tensor, fake)  # the old one too, or its id would be given again
        return made[id(tensor)][1]

    for root in modules:
        for module in root.modules():
            tables: list[dict[str, Any]] = [module._parameters, module._buffers]
            for table in tables:
                table.update({name: claimed(t) for name, t in table.items() if t is not None})
