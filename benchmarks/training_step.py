"""A training step of an adapter at SVD's full size, random weights: memory planned and measured, and time.

    python benchmarks/training_step.py --size 256 448 --frames 7     both presets, on a GPU if one is there
    python benchmarks/training_step.py --size 64 64 --frames 3 --preset fast --device cpu --steps 2

The frozen base is made on the device in bfloat16 and never written; what is trained is float32 under
autocast, as `svd-vfi train` has it with precision and base_precision = "bfloat16" and
gradient_checkpointing = true. Memory is the allocator's peak on a GPU, and counted tensors on a processor.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import autocast, nn

from vfi_core.adapter import PRESETS
from vfi_core.config import FULL_SIZE
from vfi_core.svd.load import SVD, build
from vfi_core.training.batch import Batch
from vfi_core.training.counted import LiveBytes, weight_bytes
from vfi_core.training.loss import denoising_loss
from vfi_core.training.noise import draw
from vfi_core.training.optimiser import build_optimiser
from vfi_core.training.plan import GIB, lines_of, plan_training
from vfi_core.training.settings import PRECISIONS, TrainConfig
from vfi_core.training.short_attention import short_attention
from vfi_core.training.trainable import checkpoint_activations, new_modules


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=PRESETS, nargs="*", default=list(PRESETS))
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), default=(256, 448))
    parser.add_argument("--frames", type=int, default=7)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--optimiser", default="adamw")
    parser.add_argument("--precision", choices=PRECISIONS, default="bfloat16", help="of base and computation")
    parser.add_argument("--no-checkpointing", action="store_true")
    parser.add_argument("--steps", type=int, default=10, help="timed ones, after two that are not")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    device = torch.device(args.device)
    config = TrainConfig(
        batch=args.batch,
        accumulate=args.accumulate,
        precision=args.precision,
        base_precision=args.precision,
        gradient_checkpointing=not args.no_checkpointing,
        optimiser=args.optimiser,
    )
    training = {name: FULL_SIZE[name] for name in ("fps", "motion_bucket_id", "augmentation")}
    training |= {"frames": args.frames, "size": tuple(args.size)}
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    print(
        f"{name}, torch {torch.__version__}, {args.frames} frames of {args.size[1]}x{args.size[0]}, {config}"
    )
    for preset in args.preset:
        print(f"\n{preset}", flush=True)
        began = time.time()
        plan = plan_training(FULL_SIZE, PRESETS[preset], config, training, device)
        print("\n".join(lines_of(plan, config, device)))
        print(f"planned in {time.time() - began:.1f} s", flush=True)
        svd = random_svd(device, PRECISIONS[args.precision])
        peak, times, losses = measure(svd, preset, config, training, device, args.steps)
        del svd
        off = plan.memory / peak - 1
        print(f"peak {peak / GIB:.3f} GiB measured, {plan.memory / GIB:.3f} planned ({off:+.1%})")
        step = median(times)
        print(
            f"step {step:.3f} s (median of {len(times)}, {min(times):.3f} to {max(times):.3f}), "
            f"{args.batch / step:.3f} clips a second; losses {losses[0]:.4f} to {losses[-1]:.4f}",
            flush=True,
        )
        gc.collect()


@torch.no_grad()
def random_svd(device: torch.device, dtype: torch.dtype) -> SVD:
    """SVD with random weights, variance 1 / fan-in, on the device."""
    svd = build(FULL_SIZE, dtype, "meta")
    g = torch.Generator(device).manual_seed(0)
    for model in (svd.unet, svd.vae, svd.image_encoder):
        model.to_empty(device=device)
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                bound = (3 / weight[0].numel()) ** 0.5
                weight.uniform_(-bound, bound, generator=g)
            else:
                weight.fill_(1.0 if "norm" in name and "weight" in name else 0.0)
    return svd


def measure(
    svd: SVD, preset: str, config: TrainConfig, training: dict, device: torch.device, steps: int
) -> tuple[int, list[float], list[float]]:
    """(peak bytes, seconds of each step, loss of each step)."""
    gpu = device.type == "cuda"
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    checkpoint_activations(config, svd.unet)
    modules = new_modules(svd, PRESETS[preset], 0)
    trainable = [p for p in modules.parameters() if p.requires_grad]
    average = [p.detach().clone() for p in trainable]
    optimiser = build_optimiser(config, trainable, device)
    step = step_of(svd, modules, config, training, device, trainable, average, optimiser)
    losses = [step(0)]  # the moments are there from now on
    if gpu:
        losses.append(step(1))
        peak = torch.cuda.max_memory_allocated()
    else:
        held = weight_bytes(svd.unet, svd.vae, svd.image_encoder, modules) + sum(
            t.numel() * t.element_size() for t in [*average, *moments(optimiser)]
        )
        optimiser.zero_grad(set_to_none=True)
        with LiveBytes() as memory:
            losses.append(step(1))
        peak = held + memory.peak
    times = []
    for i in range(steps):
        began = time.perf_counter()
        losses.append(step(2 + i))  # reading the loss waits for the device
        times.append(time.perf_counter() - began)
    return peak, times, losses


def step_of(
    svd: SVD,
    modules: nn.Module,
    config: TrainConfig,
    training: dict,
    device: torch.device,
    trainable: list[nn.Parameter],
    average: list[torch.Tensor],
    optimiser: torch.optim.Optimizer,
) -> Callable[[int], float]:
    """One step of `training.loop`, as a function of its number; random clips."""
    (height, width), frames = training["size"], training["frames"]
    precision = PRECISIONS[config.precision]

    def step(number: int) -> float:
        g = torch.Generator().manual_seed(number)
        latents = 5 * torch.randn(config.batch, frames, 4, height // 8, width // 8, generator=g)
        embeddings = torch.randn(config.batch, 2, FULL_SIZE["unet"]["cross_attention_dim"], generator=g)
        batch = Batch(latents, latents[:, [0, -1]], embeddings)
        draws = draw(config.noise, batch, (FULL_SIZE["sigma_min"], FULL_SIZE["sigma_max"]), 0.0, g)
        optimiser.zero_grad(set_to_none=True)
        total, size = torch.zeros((), device=device), config.part(1)
        for i in range(config.accumulate):
            chosen = slice(i * size, (i + 1) * size)
            with contextlib.ExitStack() as hooks:
                with autocast(device.type, precision, enabled=precision != torch.float32):
                    part = batch.part(chosen).to(device), draws.part(chosen)
                    loss = denoising_loss(svd, modules, modules.options, *part, training, hooks)
                (loss / config.accumulate).backward()
            total += loss.detach() / config.accumulate
        nn.utils.clip_grad_norm_(trainable, config.clip_norm)
        optimiser.step()
        with torch.no_grad():
            for a, p in zip(average, trainable, strict=True):
                a.lerp_(p, 1 - config.ema)
        return total.item()

    def short(number: int) -> float:
        with short_attention(svd.unet, modules):
            return step(number)

    return short


def moments(optimiser: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Every tensor of an optimiser's state."""
    return [v for state in optimiser.state.values() for v in state.values() if isinstance(v, torch.Tensor)]


if __name__ == "__main__":
    main()
