"""The whole path at SVD's full size with random weights: what it takes in memory and time, on this machine.

    python benchmarks/full_size.py --folder DIR      (needs 8 GB of disk there; prints one line per stage)

A single-file checkpoint and an adapter of either preset are written in bfloat16 (`benchmarks/comfyui.py`
takes them too). Run again, it is loaded, given such an adapter, sampled for 2 steps at 5 frames of 256x256,
and decoded. Random weights make no picture: this measures the path, nothing else.
"""

from __future__ import annotations

import argparse
import gc
import resource
import time
from pathlib import Path

import torch

from vfi_core.adapter import PRESETS, Adapter, save_adapter
from vfi_core.svd.adapted import head_dim_of
from vfi_core.svd.interpolate import interpolate
from vfi_core.svd.load import FULL_SIZE, SVD, build, load_svd, save_single_file
from vfi_core.svd.settings import Settings
from vfi_core.training.trainable import adapter_key, new_modules


def peak() -> float:
    """The process's largest resident size so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def random_adapter(svd: SVD, preset: str) -> Adapter:
    """An untrained adapter whose outputs were moved off zero."""
    modules = new_modules(svd, PRESETS[preset], seed=0)
    tensors = {adapter_key(n): p.detach() for n, p in modules.named_parameters() if p.requires_grad}
    tensors |= {n: torch.full_like(t, 1e-3) for n, t in tensors.items() if n.startswith("encoder.out.")}
    return Adapter(PRESETS[preset], tensors, head_dim_of(svd.unet), {"frames": 5, "size": [256, 256]}, preset)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--preset", choices=PRESETS, default="fast")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="to compute in")
    args = parser.parse_args()
    path = args.folder / "random_svd.safetensors"
    if not path.exists():
        began = time.time()
        svd = build(FULL_SIZE, torch.bfloat16, "meta")
        g = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for model in (svd.unet, svd.vae, svd.image_encoder):
                model.to_empty(device="cpu")
                for name, weight in model.named_parameters():
                    if weight.ndim > 1:
                        bound = (3 / weight[0].numel()) ** 0.5
                        weight.uniform_(-bound, bound, generator=g)
                    else:
                        weight.fill_(
                            1.0
                            if name.endswith("norm.weight") or "norm" in name and "weight" in name
                            else 0.0
                        )
        for model in (svd.unet, svd.vae, svd.image_encoder):
            model.requires_grad_(False)
        save_single_file(svd, path, torch.bfloat16)
        for preset in PRESETS:
            save_adapter(
                random_adapter(svd, preset), args.folder / f"random_{preset}.safetensors", torch.bfloat16
            )
        del svd, model, weight
        gc.collect()
        print(
            f"write   {time.time() - began:6.1f} s, {path.stat().st_size / 2**30:.2f} GiB on disk", flush=True
        )
        print("run this command again: the peak of a fresh process is the figure")
        return

    began = time.time()
    svd = load_svd(path, dtype=getattr(torch, args.dtype))
    print(f"load    {time.time() - began:6.1f} s, peak {peak():.2f} GiB", flush=True)

    began = time.time()
    adapter = random_adapter(svd, args.preset)
    size = sum(t.numel() for t in adapter.tensors.values()) / 1e6
    print(f"adapter {time.time() - began:6.1f} s, {size:.0f} M parameters, peak {peak():.2f} GiB", flush=True)

    stamps = [time.time()]
    pictures = [torch.rand(256, 256, 3, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    settings = Settings(in_betweens=3, clip_frames=5, steps=2, guidance=(1.0, 2.0))
    film = interpolate(svd, pictures, settings, adapter, lambda done, total: stamps.append(time.time()))
    steps = ", ".join(f"{b - a:.1f}" for a, b in zip(stamps[1:], stamps[2:], strict=False))
    print(
        f"film    {time.time() - stamps[0]:6.1f} s (steps, then decoding: {steps} s), peak {peak():.2f} GiB"
    )
    print(
        f"{tuple(film.shape)}, finite: {bool(torch.isfinite(film).all())}, {torch.get_num_threads()} threads"
    )


if __name__ == "__main__":
    main()
