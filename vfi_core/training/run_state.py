"""The state of a training run on disk: one safetensors file, replaced whole, so that a kill loses no
finished save.

Every random draw of the trainers is a function of (seed, step); tensors, optimiser moments and the step are
therefore all a run needs to go on to the very bits it would have reached undisturbed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from ..files import write_safetensors

FORMAT = "svd-vfi-run/1"


def save_run(
    path: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    optimisers: Mapping[str, Optimizer],
    fingerprint: str,
    writes: bool = True,
) -> None:
    """Write a run after ``step`` finished steps; ``fingerprint`` is what it depends on, compared later.

    writes  whether this is the process that writes; every process brings its shards
    """
    kept = {f"tensor.{k}": whole(v) for k, v in tensors.items()}
    for name, optimiser in optimisers.items():
        for index, moments in optimiser.state_dict()["state"].items():
            kept |= {f"optimiser.{name}.{index}.{k}": whole(torch.as_tensor(v)) for k, v in moments.items()}
    if not writes:
        return
    write_safetensors(path, kept, {"format": FORMAT, "step": str(step), "fingerprint": fingerprint})


def whole(tensor: Tensor) -> Tensor:
    """The tensor, put together where it is sharded over processes (FSDP)."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _like(saved: Tensor, tensor: Tensor) -> Tensor:
    """``saved`` as ``tensor`` lies: on its device, sharded as it is."""
    if not isinstance(tensor, DTensor):
        return saved
    mesh = tensor.device_mesh
    return distribute_tensor(saved.to(mesh.device_type), mesh, tensor.placements)


def digest(*modules: nn.Module) -> str:
    """A hash of every weight of the modules: what a run that leaves them frozen depends on."""
    total = hashlib.sha256()
    for module in modules:
        for name, weight in module.state_dict().items():
            total.update(name.encode())
            total.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return total.hexdigest()[:16]


@torch.no_grad()
def load_run(
    path: Path, tensors: Mapping[str, Tensor], optimisers: Mapping[str, Optimizer], fingerprint: str
) -> int:
    """Put a saved run back into ``tensors`` (in place) and ``optimisers``; its finished steps, 0 where no
    file is.

    Raises ValueError for a file that is no state of this run, or one of another configuration.
    """
    if not path.exists():
        return 0
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            saved = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        if metadata["fingerprint"] != fingerprint:
            raise ValueError("its settings differ from this configuration")
        for name, tensor in tensors.items():
            tensor.copy_(_like(saved[f"tensor.{name}"], tensor))
        for name, optimiser in optimisers.items():
            state: dict[int, dict[str, Tensor]] = {}
            prefix = f"optimiser.{name}."
            parameters = [p for group in optimiser.param_groups for p in group["params"]]
            for key in (k for k in saved if k.startswith(prefix)):
                index, moment = key.removeprefix(prefix).split(".", 1)
                # Moments lie as their parameter; a count of steps has no shape and lies nowhere.
                value = _like(saved[key], parameters[int(index)]) if saved[key].ndim else saved[key]
                # A copy: what lies in the mapped file keeps it from being replaced on Windows.
                state.setdefault(int(index), {})[moment] = value.clone()
            optimiser.load_state_dict(
                {"state": state, "param_groups": optimiser.state_dict()["param_groups"]}
            )
        return int(metadata["step"])
    except (SafetensorError, KeyError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{path} is no saved state of this run ({error}); use a new folder or move it away"
        ) from error
