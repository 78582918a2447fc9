"""What in-betweening costs inside ComfyUI beside plain image-to-video: one server, one seed, one table.

    COMFYUI/.venv/bin/python benchmarks/comfyui.py COMFYUI                  the bundled miniature, on the CPU
    COMFYUI/.venv/bin/python benchmarks/comfyui.py COMFYUI --device default \
        --checkpoint svd.safetensors --paper paper.safetensors --fast fast.safetensors

Run it with the host's own Python. A checkpoint of one's own goes through ComfyUI's ImageOnlyCheckpointLoader.
Every row samples by KSampler (euler, karras, guidance 2, so both branches run). Seconds a step are those of a
run of 2 n steps less those of a run of n, over n, the median of --repeats; memory is the server's largest
resident size while it samples and, on a GPU, the largest use of it. Ratios are to the first row.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy
import psutil
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from tests.host.served import Server  # noqa: E402

TINY = "tiny SVD (bundled miniature)"
BUNDLED = "{} (bundled, for tiny SVD)"
ROWS = {  # name: adapter, encoder_refresh
    "base SVD, image to video": (None, 1),
    "base + paper": ("paper", 1),
    "base + fast": ("fast", 1),
    "base + fast, encoder every 2nd step": ("fast", 2),
    "base + fast, encoder every 4th step": ("fast", 4),
}


def graph(args: argparse.Namespace, adapter: str | None, refresh: int, steps: int, seed: int) -> dict:
    """An API-format graph that ends with a latent on disk."""
    checkpoint = args.checkpoint.name if args.checkpoint else None
    size = {"width": args.size[0], "height": args.size[1]}
    nodes: dict[str, tuple[str, dict[str, Any]]] = {
        "first": ("LoadImage", {"image": "first.png"}),
        "last": ("LoadImage", {"image": "last.png"}),
        "load": ("ImageOnlyCheckpointLoader", {"ckpt_name": checkpoint})
        if checkpoint
        else ("SVDVFILoadCheckpoint", {"ckpt_name": TINY, "adapter_name": "none"}),
        "save": ("SaveLatent", {"samples": ["sample", 0], "filename_prefix": "benchmark"}),
    }
    model, clip_vision, vae = (["load", i] for i in range(3))
    if adapter is None:
        told = {"motion_bucket_id": 127, "fps": 7, "augmentation_level": 0.0, "video_frames": args.frames}
        told |= {"clip_vision": clip_vision, "init_image": ["first", 0], "vae": vae} | size
        nodes["told"] = ("SVD_img2vid_Conditioning", told)
        latent = ["told", 2]
    else:
        file = getattr(args, adapter)
        nodes["adapter"] = (
            "SVDVFILoadAdapter",
            {"adapter_name": file.name if file else BUNDLED.format(adapter)},
        )
        nodes["apply"] = (
            "SVDVFIApplyAdapter",
            {
                "model": model,
                "adapter": ["adapter", 0],
                "attention_strength": 1.0,
                "start_percent": 0.0,
                "end_percent": 1.0,
            },
        )
        nodes["keyframes"] = (
            "SVDVFIKeyframes",
            {
                "vae": vae,
                "images": ["first", 0],
                "last_image": ["last", 0],
                "adapter": ["adapter", 0],
                "in_betweens": args.frames - 2,
                "positions": "",
                "fps": 7.0,
                "size": "picture size",
                "loop": False,
                "seed": 1,
            },
        )
        nodes["told"] = (
            "SVDVFIConditioning",
            {
                "clip_vision": clip_vision,
                "vae": vae,
                "keyframes": ["keyframes", 0],
                "control_net": ["apply", 1],
                "strength": 1.0,
                "start_percent": 0.0,
                "end_percent": 1.0,
                "encoder_refresh": refresh,
                "fps": 0.0,
                "motion_bucket_id": 0,
                "augmentation_level": 0.0,
                "seed": 1,
            },
        )
        model, latent = ["apply", 0], ["keyframes", 1]
    nodes["sample"] = (
        "KSampler",
        {
            "model": model,
            "positive": ["told", 0],
            "negative": ["told", 1],
            "latent_image": latent,
            "seed": seed,
            "steps": steps,
            "cfg": 2.0,
            "sampler_name": "euler",
            "scheduler": "karras",
            "denoise": 1.0,
        },
    )
    return {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()}


class Memory:
    """The largest resident size of the server, and use of its GPU, GiB, while the block runs."""

    def __init__(self, server: Server) -> None:
        self.server, self.resident, self.gpu = server, 0.0, 0.0

    async def watch(self) -> None:
        process = psutil.Process(self.server.process.pid)
        while True:
            self.resident = max(self.resident, process.memory_info().rss / 2**30)
            device = (await self.server.get("/system_stats"))["devices"][0]
            if device["type"] != "cpu":
                self.gpu = max(self.gpu, (device["vram_total"] - device["vram_free"]) / 2**30)
            await asyncio.sleep(0.1)

    async def __aenter__(self) -> Memory:
        self.task = asyncio.create_task(self.watch())
        return self

    async def __aexit__(self, *_: Any) -> None:
        self.task.cancel()


async def seconds(server: Server, nodes: dict) -> float:
    """From the start of a graph to its end, by the server's own stamps."""
    outcome = await server.run(nodes)
    if outcome.end != "execution_success":
        raise RuntimeError(outcome.error)
    began, ended = outcome.of("execution_start")[0], outcome.of("execution_success")[-1]
    return (ended["timestamp"] - began["timestamp"]) / 1000


async def measure(server: Server, args: argparse.Namespace) -> None:
    first: tuple[float, float, float] | None = None
    print(f"{'':36}   s a step          resident GiB       GPU GiB")
    for name, (adapter, refresh) in ROWS.items():
        if args.checkpoint and adapter and getattr(args, adapter) is None:
            continue
        await server.post("/free", {"unload_models": True, "free_memory": True})
        await asyncio.sleep(2)
        n, differences = args.steps, []
        await seconds(server, graph(args, adapter, refresh, 1, 0))  # loads, and fills the cache
        async with Memory(server) as memory:
            for seed in range(1, args.repeats + 1):
                short, long = [
                    await seconds(server, graph(args, adapter, refresh, k, seed)) for k in (n, 2 * n)
                ]
                differences.append((long - short) / n)
        row = (statistics.median(differences), memory.resident, memory.gpu)
        first = first or row
        cells = [
            f"{value:9.3f} ({value / base:4.2f})" if base else f"{'-':>9}"
            for value, base in zip(row, first, strict=True)
        ]
        print(f"{name:36}{'   '.join(cells)}", flush=True)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("comfyui", type=Path)
    parser.add_argument("--checkpoint", type=Path, help="a file of SVD's size, not the miniature")
    parser.add_argument("--paper", type=Path, help="an adapter for it")
    parser.add_argument("--fast", type=Path, help="an adapter for it")
    parser.add_argument("--device", choices=("cpu", "default"), default="cpu")
    parser.add_argument("--size", type=int, nargs=2, metavar=("WIDTH", "HEIGHT"), default=(128, 128))
    parser.add_argument("--frames", type=int, default=7)
    parser.add_argument("--steps", type=int, default=8, help="n")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(args.comfyui, Path(folder), ["--cpu"] if args.device == "cpu" else [])
        files = (("checkpoints", args.checkpoint), ("svd_vfi", args.paper), ("svd_vfi", args.fast))
        for place, file in files:
            if file:
                (server.base / "models" / place / file.name).symlink_to(file.resolve())
        generator = numpy.random.default_rng(0)
        for name in ("first", "last"):
            pixels = generator.integers(0, 256, (*args.size[::-1], 3), dtype=numpy.uint8)
            Image.fromarray(pixels).save(server.base / "input" / f"{name}.png")
        try:
            async with server:
                await measure(server, args)
        except RuntimeError:
            shutil.copy(Path(folder) / "server.log", "server.log")
            print("the server's words are in server.log", file=sys.stderr)
            raise


if __name__ == "__main__":
    asyncio.run(main())
