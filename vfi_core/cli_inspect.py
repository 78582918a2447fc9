"""`svd-vfi inspect`: what a checkpoint or adapter is, from its header alone: ten gigabytes cost nothing."""

from __future__ import annotations

import argparse
import json
import math
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

LARGEST_HEADER = 100_000_000  # safetensors' own limit, bytes
NOISE = ("modelspec.thumbnail", "ss_tag_frequency", "ss_bucket_info")  # pages of text in LoRA files

Shapes = dict[str, list[int]]
# What names of tensors tell, most telling first.
KINDS: tuple[tuple[Callable[[str], bool], str], ...] = (
    (lambda k: "lora_" in k or "lora." in k or "lokr_" in k or "hada_" in k, "a LoRA"),
    (lambda k: k.startswith(("control_model.", "controlnet_")), "a ControlNet"),
    (lambda k: k.startswith("conditioner.embedders.1.model."), "an SDXL checkpoint"),
    (lambda k: k.startswith("cond_stage_model."), "a Stable Diffusion 1.x or 2.x checkpoint"),
    (lambda k: "joint_blocks." in k, "a Stable Diffusion 3 model"),
    (lambda k: "double_blocks." in k, "a Flux-like transformer"),
    (lambda k: "motion_modules." in k, "an AnimateDiff motion module"),
    (
        lambda k: "temporal_transformer_blocks." in k,
        "Stable Video Diffusion's U-Net alone, in diffusers' names",
    ),
    (lambda k: k.startswith(("down_blocks.", "mid_block.")), "an image U-Net alone, in diffusers' names"),
    (lambda k: k.startswith("vision_model."), "an image encoder alone"),
    (lambda k: k.startswith("decoder.") and "temporal" in k, "a temporal VAE alone, in diffusers' names"),
    (lambda k: k.startswith(("decoder.", "encoder.")), "a VAE alone"),
    (lambda k: k.startswith("model.diffusion_model."), "a diffusion checkpoint of another kind"),
)
PARTS = {
    "U-Net": "model.diffusion_model.",
    "VAE": "first_stage_model.",
    "image encoder": "conditioner.embedders.0.open_clip.",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `svd-vfi inspect`."""
    parser.add_argument("file", type=Path, help="a .safetensors file")


def main(args: argparse.Namespace) -> None:
    """Prints what the file is. Raises ValueError if it is no safetensors file."""
    shapes, dtypes, metadata = read_header(args.file)
    rows = [("parameters", _count(shapes, ""))]
    if _is_svd(shapes):
        rows += [(part, _count(shapes, prefix)) for part, prefix in PARTS.items()]
    if _is_svd(shapes) and "svd_vfi_config" not in metadata:
        rows.append(("widths", ", ".join(map(str, _widths(shapes)))))
        rows.append(("frames", "14 (svd) or 25 (svd_xt): the file does not say"))
    rows.append(("dtype", ", ".join(f"{name} ({n} tensors)" for name, n in dtypes.most_common())))
    rows.append(("file", f"{args.file.stat().st_size / 1e6:,.1f} MB"))
    rows += _rows(metadata)
    print(f"{args.file.name} is {kind(shapes, metadata)}")
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"  {name:<{width}}  {value}")


def read_header(path: Path) -> tuple[Shapes, Counter[str], dict[str, str]]:
    """Shapes by name, numbers of tensors by dtype, metadata of a safetensors file; no weight is read.

    Raises ValueError, saying what the file is where that can be seen.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give one of its .safetensors files")
    if not path.exists():
        raise ValueError(f"{path} does not exist; give a .safetensors file")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        text = file.read(length) if 2 <= length <= min(LARGEST_HEADER, size) else b""
    if start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        raise ValueError(
            f"{path.name} is a pickle, which may run code when opened; convert it to .safetensors"
        )
    if start == b"version ":
        raise ValueError(f"{path.name} is a Git LFS pointer, not the weights; fetch the file itself")
    if start.startswith(b"GGUF"):
        raise ValueError(f"{path.name} is a GGUF file; give a .safetensors file")
    try:
        header = json.loads(text)
        metadata = header.pop("__metadata__", {})
        shapes = {name: list(entry["shape"]) for name, entry in header.items()}
        dtypes = Counter(str(entry["dtype"]) for entry in header.values())
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise ValueError(f"{path.name} is no safetensors file, or is damaged; give a whole one") from error
    if size != 8 + length + end:
        raise ValueError(
            f"{path.name} is cut short: {size:,} of {8 + length + end:,} bytes; download it again"
        )
    return shapes, dtypes, metadata


def kind(shapes: Shapes, metadata: dict[str, str]) -> str:
    """What the file is, in words."""
    if metadata.get("format", "").startswith("svd-vfi-adapter/"):
        return f"an adapter for in-betweening ({metadata['format']})"
    if _is_svd(shapes):
        missing = [part for part, prefix in PARTS.items() if not any(k.startswith(prefix) for k in shapes)]
        if missing:
            return f"a Stable Video Diffusion checkpoint without its {' and '.join(missing)}"
        return "a Stable Video Diffusion checkpoint in one file (ComfyUI's layout)"
    for tells, name in KINDS:
        if any(tells(key) for key in shapes):
            return f"{name}, not for in-betweening here"
    names = ", ".join(list(shapes)[:3])
    return f"of an unknown kind, with tensors such as {names}" if names else "without any tensors"


def _is_svd(shapes: Shapes) -> bool:
    return any(key.startswith(PARTS["U-Net"]) and "time_stack." in key for key in shapes)


def _widths(shapes: Shapes) -> list[int]:
    """Channels of the U-Net's levels: output channels of its encoder's ResNets, in order, each once."""
    widths: list[int] = []
    for i in range(64):
        shape = shapes.get(f"{PARTS['U-Net']}input_blocks.{i}.0.out_layers.3.weight")
        if shape and (not widths or widths[-1] != shape[0]):
            widths.append(shape[0])
    return widths


def _count(shapes: Shapes, prefix: str) -> str:
    n = sum(math.prod(shape) for key, shape in shapes.items() if key.startswith(prefix))
    return f"{n / 1e6:,.2f} M" if n >= 10_000 else f"{n:,}"


def _rows(metadata: dict[str, str]) -> list[tuple[str, str]]:
    """One row per entry; entries that are JSON objects are opened, two levels deep at most."""
    rows: list[tuple[str, str]] = []
    for name, text in metadata.items():
        if name in NOISE or name == "format":
            continue
        value: Any = text
        if text.startswith("{"):
            try:
                value = json.loads(text)
            except ValueError:
                value = text
        if isinstance(value, dict):
            rows += [(key, _short(inner)) for key, inner in value.items()]
        else:
            rows.append((name, _short(value)))
    return rows


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(inner)}" for key, inner in value.items())
    text = " ".join(str(value).split())
    return text if len(text) <= 300 else text[:297] + "..."
