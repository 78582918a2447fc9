"""What a training would take, found out before anything is loaded.

The real loss is run forwards and backwards on tensors that claim to lie on the device and hold nothing; the
bytes that live meanwhile are counted, and so are the multiplications.

Legend: b clips, t frames, c features, h w latent, H W pixels.
"""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportGeneralTypeIssues=false
# diffusers annotates only its tuple returns, and torch every submodule as Tensor | Module.

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import autocast, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from ..adapter import Options
from ..config import SVDConfig
from ..svd.adapted import AdapterModules
from ..svd.load import SVD, build
from .batch import Batch
from .counted import LiveBytes, pretend, weight_bytes
from .loss import denoising_loss
from .noise import Draws
from .optimiser import moment_bytes
from .settings import PRECISIONS, TrainConfig
from .short_attention import short_attention
from .trainable import checkpoint_activations, new_modules

GIB = 2**30
# What torch's own table lacks: attention on a processor.
ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (
        lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v)
    ),
}


@dataclass(frozen=True)
class Plan:
    """A training step of one process, in bytes and floating-point operations.

    parameters  of each part; the first is frozen
    base        the frozen base's weights
    weights, average, moments, gradients  of what is trained
    buckets     where several processes sum their gradients
    activations what lives beside all that at the worst moment
    """

    parameters: dict[str, int]
    base: int
    weights: int
    average: int
    moments: int
    gradients: int
    buckets: int
    activations: int
    operations: int

    @property
    def memory(self) -> int:
        """All of it."""
        held = self.base + self.weights + self.average + self.moments + self.buckets
        return held + self.gradients + self.activations


def plan_training(
    base: SVDConfig,
    options: Options | None,
    config: TrainConfig,
    training: Mapping[str, Any],
    device: torch.device,
    processes: int = 1,
) -> Plan:
    """The plan of an adapter on a frozen base, or (options None) of a base from scratch.

    training  frames, size (H, W), fps, motion_bucket_id, augmentation
    """
    svd = build(base, PRECISIONS[config.base_precision], "meta")
    checkpoint_activations(config, svd.unet)
    modules = None
    if options is not None:
        with torch.device("meta"):
            modules = new_modules(svd, options, 0)
    trained = modules or nn.ModuleDict({"unet": svd.unet, "image_encoder": svd.image_encoder})
    if modules is None:
        trained.requires_grad_(True)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    pretend(mode, [svd.unet, svd.vae, svd.image_encoder, trained], device)
    wanted = {name: p for name, p in trained.named_parameters() if p.requires_grad}
    gradients = sum(p.numel() * p.element_size() for p in wanted.values())
    peak, operations = _run(mode, svd, modules, options or Options(), config, training, device, processes)
    return Plan(
        parameters=_parameters(svd, wanted),
        base=weight_bytes(svd.unet, svd.vae, svd.image_encoder, modules) - gradients,
        weights=gradients,
        average=gradients if config.ema else 0,
        moments=sum(moment_bytes(config, p.numel()) for p in wanted.values()),
        gradients=gradients,
        buckets=gradients if processes > 1 else 0,
        activations=peak - gradients,
        operations=operations * config.accumulate,
    )


def _run(
    mode: FakeTensorMode,
    svd: SVD,
    modules: AdapterModules | None,
    options: Options,
    config: TrainConfig,
    training: Mapping[str, Any],
    device: torch.device,
    processes: int,
) -> tuple[int, int]:
    """(most bytes that live at once, operations) of one part of a step."""
    b, t = config.part(processes), int(training["frames"])
    (height, width), features = training["size"], svd.image_encoder.config.projection_dim
    h, w = height // 8, width // 8
    none = torch.zeros(b, dtype=torch.bool)
    flops, precision = FlopCounterMode(display=False, custom_mapping=ATTENTION), PRECISIONS[config.precision]
    with mode, flops, LiveBytes() as memory, ExitStack() as hooks, short_attention(svd.unet, modules):
        draws = Draws(torch.ones(b), torch.zeros(b, t, 4, h, w), None, none, none, none)
        batch = Batch(
            torch.zeros(b, t, 4, h, w, device=device),
            torch.zeros(b, 2, 4, h, w, device=device),
            None if modules is None else torch.zeros(b, 2, features, device=device),
            torch.zeros(b, 2, 3, height, width, dtype=torch.uint8, device=device)
            if modules is None
            else None,
        )
        with autocast(device.type, precision, enabled=config.precision != "float32"):
            loss = denoising_loss(svd, modules, options, batch, draws, training, hooks)
        loss.backward()
    return memory.peak, flops.get_total_flops()


def _parameters(svd: SVD, trained: Mapping[str, nn.Parameter]) -> dict[str, int]:
    """By part: `encoder.trunk`, `attention.unet` ... of an adapter; `unet`, `image_encoder` of a base."""
    mine = {id(p) for p in trained.values()}
    frozen = {id(p): p.numel() for m in (svd.unet, svd.vae, svd.image_encoder) for p in m.parameters()}
    parts = {"base": sum(n for i, n in frozen.items() if i not in mine)}
    for name, p in trained.items():
        part = ".".join(name.split(".")[: 1 if name.startswith(("unet.", "image_encoder.")) else 2])
        parts[part] = parts.get(part, 0) + p.numel()
    return parts


def throughput(device: torch.device, precision: torch.dtype, seconds: float = 0.5) -> float:
    """Floating-point operations a second of a square matrix product on ``device``, at its best."""
    side = 4096 if device.type == "cuda" else 1024
    a = torch.ones(side, side, device=device, dtype=precision)
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    a.matmul(a)
    wait()
    began, count = time.perf_counter(), 0
    while (took := time.perf_counter() - began) < seconds:
        a.matmul(a)
        wait()
        count += 1
    return 2 * side**3 * count / took


def lines_of(plan: Plan, config: TrainConfig, device: torch.device) -> list[str]:
    """A plan as people read it, the device's speed measured for it."""
    base, *trained = plan.parameters.items()
    speed = throughput(device, PRECISIONS[config.precision])
    memory = {
        f"the base's weights, {config.base_precision}": plan.base,
        "trained weights, float32": plan.weights,
        "their moving average": plan.average,
        f"moments of {config.optimiser}": plan.moments,
        "gradients": plan.gradients,
        "buckets to sum gradients in": plan.buckets,
        f"activations, {config.precision}{', checkpointed' if config.gradient_checkpointing else ''}": (
            plan.activations
        ),
    }
    lines = ["parameters, millions", f"  {base[1] / 1e6:10,.3f}  {base[0]}, frozen"]
    lines += [f"  {count / 1e6:10,.3f}  {name}, trained" for name, count in trained]
    lines += ["memory of a process at the worst moment, GiB"]
    lines += [f"  {size / GIB:10.3f}  {name}" for name, size in memory.items() if size]
    lines += [f"  {plan.memory / GIB:10.3f}  together, beside what the libraries take for themselves"]
    if device.type == "cuda" and plan.memory > (there := torch.cuda.mem_get_info(device)[1]):
        lines += [
            f"this device has {there / GIB:.1f} GiB: use gradient_checkpointing, accumulate, base_precision "
            "or adamw8bit"
        ]
    return lines + [
        f"a step: {plan.operations / 1e12:.3f} TFLOP, {plan.operations / speed:.2f} s if all of it went "
        f"at the {speed / 1e12:.2f} TFLOP/s that {device} multiplies matrices at: rough, and it takes longer"
    ]
