"""`svd-vfi inspect`: what a checkpoint or adapter is, from its header alone: ten gigabytes cost nothing."""

from __future__ import annotations

import argparse
import json
import math
import struct
from collections import Counter
from pathlib import Path
from typing import Any

from .kinds import PARTS, UNET, is_framer, is_svd, kind, refuse_other_formats

LARGEST_HEADER = 100_000_000  # safetensors' own limit, bytes
NOISE = ("modelspec.thumbnail", "ss_tag_frequency", "ss_bucket_info")  # pages of text in LoRA files

Shapes = dict[str, list[int]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `svd-vfi inspect`."""
    parser.add_argument("file", type=Path, help="a .safetensors file")


def main(args: argparse.Namespace) -> None:
    """Prints what the file is. Raises ValueError if it is no safetensors file."""
    shapes, dtypes, metadata = read_header(args.file)
    rows = [("parameters", _count(shapes, ""))]
    if is_svd(shapes):
        rows += [(part, _count(shapes, prefix)) for part, prefix in PARTS.items()]
    if is_svd(shapes) and "svd_vfi_config" not in metadata:
        rows.append(("widths", ", ".join(map(str, _widths(shapes)))))
        rows.append(("frames", "14 (svd) or 25 (svd_xt): the file does not say"))
    if is_framer(shapes):
        rows += _framer()
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
    refuse_other_formats(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        text = file.read(length) if 2 <= length <= min(LARGEST_HEADER, size) else b""
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


def _framer() -> list[tuple[str, str]]:
    """The file says nothing of itself."""
    from .framer import CONDITIONS, Framer

    return [*((name, _short(value)) for name, value in CONDITIONS.items()), ("origin", Framer.notice)]


def _widths(shapes: Shapes) -> list[int]:
    """Channels of the U-Net's levels: output channels of its encoder's ResNets, in order, each once."""
    widths: list[int] = []
    for i in range(64):
        shape = shapes.get(f"{UNET}input_blocks.{i}.0.out_layers.3.weight")
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
