"""`svd-vfi interpolate`: keyframes in, a film out."""

from __future__ import annotations

import argparse
import math
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from .weights import Weights

SAMPLES = Path(__file__).parent / "samples"
LONGEST = 8  # sides' ratio; the model's short side is fixed, so its long one would outgrow any memory
LARGEST_SEED = 2**64 - 1  # as in ComfyUI, so that seeds can be carried over


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `svd-vfi interpolate`."""
    add = parser.add_argument
    add("keyframes", nargs="*", type=Path, help="pictures in order, or one folder of frames, or one video")
    add(
        "-o",
        "--out",
        type=Path,
        required=True,
        help=".mp4, .gif, .webp, or a new folder for exact png frames",
    )
    add(
        "--sample",
        metavar="NAME",
        help=f"bundled keyframes instead of your own: {', '.join(samples()) or 'none'}",
    )
    add(
        "--frames",
        type=whole_number(1),
        metavar="N",
        help="in-betweens in each gap (what the model was trained for)",
    )
    add("--steps", type=whole_number(1, 1000), default=25, help="sampling steps (25)")
    add("--seed", type=whole_number(0, LARGEST_SEED), default=0, help="same seed, same film (0)")
    add("--guidance", type=parse_guidance, metavar="G", help="one number, or LOW:HIGH (the adapter's own)")
    add(
        "--guidance-shape",
        choices=("triangle", "linear"),
        default="triangle",
        help="low at both keyframes and high between, or SVD's ramp from first to last (triangle)",
    )
    add(
        "--method",
        choices=("held", "fused", "bidirectional"),
        help="how the last keyframe is reached; fused and bidirectional take twice the time, for models "
        "without an adapter (held)",
    )
    add("--fps", type=float, help="frames a second of the film (the model's; a video keeps its duration)")
    add("--model", help="checkpoint, diffusers folder or hub id (the bundled miniature)")
    add(
        "--adapter",
        help="file, Framer's U-Net (file or folder), bundled name, or 'none' (the bundled 'fast' for the "
        "bundled model, else none)",
    )
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (auto)")
    add(
        "--dtype",
        default="auto",
        choices=("auto", "float32", "float16", "bfloat16"),
        help="of the model (auto)",
    )
    add(
        "--size",
        type=_size,
        metavar="WxH",
        help="the model's working size, multiples of 64 (near the keyframes')",
    )
    add("--sheet", type=Path, metavar="PNG", help="also write all frames on one picture")


def main(args: argparse.Namespace) -> None:
    """Writes the film and says where it is. Raises ValueError for wrong input, if it can before the work."""
    import torch
    from tqdm import tqdm

    from . import media

    sources = _sources(args)
    _check_outputs(args, sources)
    originals = media.read_keyframes(sources)
    height, width = originals[0].shape[:2]
    if max(height, width) > LONGEST * min(height, width):
        raise ValueError(f"keyframes of {width}x{height} are too narrow (at most {LONGEST} to 1); crop them")
    if args.seed + len(originals) - 2 > LARGEST_SEED:  # each gap after the first takes the next seed
        raise ValueError(f"seed {args.seed} leaves no seeds for {len(originals) - 1} gaps; use a smaller one")
    device = choose_device(args.device)

    from .sheet import contact_sheet
    from .svd.interpolate import Settings, interpolate
    from .svd.load import load_svd
    from .tiny import TINY

    model: str | Path = TINY if args.model is None else args.model
    bundled = Path(model).resolve() == TINY.resolve()
    if not bundled and sys.stderr.isatty():  # ten gigabytes take a while
        print(f"loading {model}", file=sys.stderr)
    svd = load_svd(model, device, _dtype(args.dtype, device, bundled))
    adapter = find_adapter(args.adapter, bundled)
    trained = {**svd.config, **(adapter.training if adapter else {})}
    count = args.frames or trained["frames"] - 2
    fps = _fps(sources, count, trained["fps"]) if args.fps is None else args.fps
    media.check_output(args.out, fps)
    settings = Settings(
        in_betweens=count,
        steps=args.steps,
        seed=args.seed,
        guidance=args.guidance,
        guidance_shape=args.guidance_shape,
        size=args.size,
        method=args.method or "held",
    )
    # disable=None: a bar on a terminal only
    with tqdm(desc="interpolating", unit="step", leave=False, disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total, bar.n = total, done
            bar.refresh()

        film = interpolate(svd, [frame.float() / 255 for frame in originals], settings, adapter, progress)
    if not torch.isfinite(film).all():
        raise ValueError(f"the model overflowed in {args.dtype}; use --dtype float32, or bfloat16")
    frames = restore_keyframes(film, originals, count)
    media.write_film(frames, args.out, fps)
    if args.sheet:
        sheet = contact_sheet((frame / 255 for frame in frames), range(0, len(frames), count + 1))
        media.write_picture((sheet * 255).round().to(torch.uint8), args.sheet)
    shape = f"{len(frames)} frames of {width}x{height}"
    print(f"{args.out.resolve()}: {shape}, {fps:g} a second, seed {args.seed}")
    if args.sheet:
        print(f"{args.sheet.resolve()}: contact sheet, keyframes framed in orange")


def restore_keyframes(film: Tensor, originals: list[Tensor], count: int) -> Tensor:
    """The film in 8 bits with the given frames themselves in their places, ``count`` in-betweens apart.

    film       [n, H, W, 3]  0..1
    originals  k of [H, W, 3] uint8, n = (k - 1) (count + 1) + 1
    """
    import torch

    frames = (film.cpu() * 255).round().clamp(0, 255).to(torch.uint8)
    frames[:: count + 1] = torch.stack(originals)
    return frames


def samples() -> list[str]:
    """Names of the bundled scenes: those with a first and a last picture."""
    names = (path.name.removesuffix("_first.png") for path in sorted(SAMPLES.glob("*_first.png")))
    return [name for name in names if (SAMPLES / f"{name}_last.png").exists()]


def choose_device(name: str) -> torch.device:
    """The device of this name; ``auto`` is a GPU where there is one. Raises ValueError if it is not there."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]+)?", name):
        raise ValueError(f"unknown device '{name}' (use auto, cpu, cuda, cuda:1 or mps)")
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name} is not there; use --device cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device mps is not there; use --device cpu")
    return device


def _dtype(name: str, device: torch.device, bundled: bool) -> torch.dtype:
    import torch

    if name == "auto":  # the miniature is fast enough in full precision everywhere
        return torch.float32 if bundled or device.type == "cpu" else torch.float16
    return getattr(torch, name)


def _sources(args: argparse.Namespace) -> list[Path]:
    if args.sample is None:
        if not args.keyframes:
            raise ValueError("no keyframes given; give two pictures, a folder, a video, or --sample NAME")
        return args.keyframes
    if args.keyframes:
        raise ValueError(f"both --sample {args.sample} and {args.keyframes[0]} given; give one of them")
    if args.sample not in samples():
        raise ValueError(f"unknown sample '{args.sample}' (bundled: {', '.join(samples()) or 'none'})")
    return [SAMPLES / f"{args.sample}_first.png", SAMPLES / f"{args.sample}_last.png"]


def _check_outputs(args: argparse.Namespace, sources: list[Path]) -> None:
    """What can be known of the outputs before anything is read; the model's frame rate comes later."""
    from . import media

    media.check_output(args.out, 1 if args.fps is None else args.fps)
    outputs = [args.out]
    if args.sheet:
        if args.sheet.suffix.lower() != ".png":
            raise ValueError(f"--sheet {args.sheet} is no .png name; give one")
        media.check_output_file(args.sheet)
        outputs.append(args.sheet)
        if args.sheet.resolve() == args.out.resolve():
            raise ValueError(f"--out and --sheet are both {args.out}; give two names")
    for out in outputs:
        if out.resolve() in {source.resolve() for source in sources}:
            raise ValueError(f"{out} is one of the keyframes and would be overwritten; give another name")


def find_adapter(name: str | None, bundled: bool) -> Weights | None:
    """The weights of this name, their origin and licence told; None for no adapter. Raises ValueError."""
    from .tiny import ADAPTERS
    from .weights import load_weights

    if name is None and bundled:
        name = "fast"
    if name is None:
        print(
            "svd-vfi: warning: no adapter, so the model holds both keyframes but was never trained to move "
            "from one to the other; expect jumps near the last, and give --adapter for better films",
            file=sys.stderr,
        )
    if name is None or name == "none":
        return None
    path = ADAPTERS.get(name) or Path(name)
    if not path.exists():
        raise ValueError(
            f"no adapter '{name}' (give a .safetensors file, 'none', or {' or '.join(ADAPTERS)})"
        )
    weights = load_weights(path)
    if weights.notice:
        print(f"svd-vfi: {weights.notice}", file=sys.stderr)
    return weights


def _fps(sources: list[Path], count: int, default: float) -> float:
    from . import media

    source = media.read_fps(sources[0]) if len(sources) == 1 else None
    return source * (count + 1) if source else float(default)


def whole_number(least: int, most: int | None = None):
    limits = f"use {least} or more" if most is None else f"use {least} to {most}"

    def parse(text: str) -> int:
        value = int(text) if re.fullmatch(r"[+-]?[0-9]{1,20}", text) else None
        if value is None or value < least or (most is not None and value > most):
            raise argparse.ArgumentTypeError(f"{text} is not possible ({limits})")
        return value

    return parse


def parse_guidance(text: str) -> tuple[float, float]:
    try:
        numbers = [float(part) for part in text.split(":")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or not all(math.isfinite(g) and 0 <= g <= 100 for g in numbers):
        raise argparse.ArgumentTypeError(f"'{text}' is no guidance (use a number, or LOW:HIGH as 1:3)")
    return numbers[0], numbers[-1]


def _size(text: str) -> tuple[int, int]:
    """Height, width."""
    match = re.fullmatch(r"([0-9]{1,5})[xX]([0-9]{1,5})", text)
    width, height = (int(match[1]), int(match[2])) if match else (0, 0)
    # 8 in the VAE times 8 in the U-Net.
    if not all(64 <= side <= 4096 and side % 64 == 0 for side in (width, height)):
        raise argparse.ArgumentTypeError(
            f"'{text}' is no size (use WIDTHxHEIGHT, multiples of 64, as 1024x576)"
        )
    return height, width
