"""One device, or as many as accelerate was told of: what of it the trainers see."""

from __future__ import annotations

from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.state import AcceleratorState, DistributedType
from torch import nn

from .settings import TrainConfig

NAMES = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}
SCALE = ("scale", "_growth_tracker")
ELSEWHERE = (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM, DistributedType.XLA)


def start_accelerator(config: TrainConfig, device: torch.device, out: Path) -> Accelerator:
    """The process group that `accelerate launch` configured, or this process alone on ``device``.

    Raises ValueError for what cannot be had: float16 on a processor, TensorBoard where it is missing, a
    batch that does not divide, or a way of sharding whose state no single file holds.
    """
    if config.precision == "float16" and device.type != "cuda":
        raise ValueError(f"precision float16 trains on a GPU alone, not on {device.type}; use bfloat16")
    if config.tensorboard and find_spec("tensorboard") is None:
        raise ValueError("the package 'tensorboard' is missing; run: pip install 'svd-vfi[train]'")
    if config.cuda_graphs and device.type != "cuda":
        raise ValueError(f"cuda_graphs needs a GPU, not {device.type}; leave it out")
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    AcceleratorState._reset_state()  # an earlier run of this process may have had another precision
    accelerator = Accelerator(
        mixed_precision=NAMES[config.precision],
        cpu=device.type == "cpu",
        device_placement=False,
        log_with="tensorboard" if config.tensorboard else None,
        project_dir=out,
        kwargs_handlers=[
            DistributedDataParallelKwargs(gradient_as_bucket_view=True),
            InitProcessGroupKwargs(timeout=timedelta(days=2)),  # one may wait for another's pool
        ],
    )
    accelerator.gradient_accumulation_steps = 1  # ours are parts of one batch, whatever its own file says
    if accelerator.distributed_type in ELSEWHERE:
        raise ValueError(
            f"accelerate is configured for {accelerator.distributed_type.value}, whose optimiser keeps its "
            "state where a run cannot be saved as one file; use FSDP (version 2), which shards the same"
        )
    if accelerator.distributed_type == DistributedType.FSDP and not accelerator.is_fsdp2:
        raise ValueError("accelerate is configured for FSDP version 1; set fsdp_version: 2")
    if config.cuda_graphs and accelerator.num_processes > 1:
        number = accelerator.num_processes
        raise ValueError(f"cuda_graphs is for one GPU, not {number} processes; leave it out")
    config.part(accelerator.num_processes)
    return accelerator


def spare_frozen(accelerator: Accelerator, module: nn.Module) -> None:
    """Keep FSDP from sharding what is not trained: the base's own tensors, which its U-Net shares."""
    if accelerator.distributed_type == DistributedType.FSDP and (plugin := accelerator.state.fsdp_plugin):
        plugin.cpu_ram_efficient_loading = False  # it would drop weights that are there, and shared
        plugin.ignored_modules = [
            m
            for m in module.modules()
            if (own := list(m.parameters(recurse=False))) and not any(p.requires_grad for p in own)
        ]


class ScalerState:
    """float16's loss scale, as tensors of a run's state; nothing with another precision."""

    def __init__(self, scaler: torch.amp.GradScaler | None) -> None:
        self._scaler = scaler
        self.tensors: dict[str, torch.Tensor] = {}
        self.read()

    def read(self) -> None:
        """Bring ``tensors`` up to date."""
        if self._scaler is not None:
            state = self._scaler.state_dict()
            self.tensors = {f"scaler.{key}": torch.tensor(float(state[key])) for key in SCALE}

    def put_back(self) -> None:
        """Hand ``tensors``, into which a saved run was read, to the scaler."""
        if self._scaler is not None:
            scale, tracker = (self.tensors[f"scaler.{key}"].item() for key in SCALE)
            self._scaler.load_state_dict(
                self._scaler.state_dict() | {"scale": scale, "_growth_tracker": int(tracker)}
            )
