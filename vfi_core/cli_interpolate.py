"""`svd-vfi interpolate`: keyframes in, a film out."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import re
import sys
from collections.abc import Mapping
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import METHODS, REVERSED

if TYPE_CHECKING:
    import torch

    from .media import Source
    from .svd.load import SVD
    from .svd.settings import Settings
    from .timeline import Timeline
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
    add("--churn", type=float, default=0.0, metavar="S", help="noise put back at every step, S_churn (0)")
    add(
        "--method",
        choices=(*METHODS, REVERSED),
        help="how the last keyframe is reached; fused and bidirectional take twice the time, motion_prior "
        "2.6 times, for models without an adapter; reversed is Generative Inbetweening's, at seven times "
        "(held, or the one that the adapter is for)",
    )
    add(
        "--fps",
        type=float,
        help="frames a second of the film (the model's); without --frames the rate a video, or pictures of a "
        "known --source-fps, are brought to, lasting as long as before",
    )
    add("--source-fps", type=float, metavar="FPS", help="frames a second of the keyframes (a video's own)")
    add("--positions", metavar="LIST", help="frame numbers of the keyframes, as 0,12,40 (evenly apart)")
    add(
        "--loop",
        action="store_true",
        help="go on from the last keyframe to the first one; with --positions, --frames is the way back",
    )
    add(
        "--cuts",
        choices=("auto", "off"),
        help="find the scene cuts and hold the frame before each (auto for a video, else off)",
    )
    add(
        "--skip",
        metavar="LIST",
        default="",
        help="gaps to hold and not to fill, by the keyframe before each, as 3,17",
    )
    add(
        "--reseed",
        metavar="LIST",
        default="",
        help="draw single gaps from other seeds: GAP:SEED, as 2:77,5:12",
    )
    add(
        "--clip-frames",
        type=whole_number(3),
        metavar="N",
        help="frames drawn at once at most: few are thinned out of so many, more drawn in parts (as trained)",
    )
    add("--colour-lock", action="store_true", help="pull the colours of every frame onto the keyframes'")
    add(
        "--keep-segments",
        action="store_true",
        help="keep what was drawn beside the film, so that the next command draws only what differs",
    )
    add("--model", help="checkpoint, diffusers folder or hub id (the bundled miniature)")
    add(
        "--adapter",
        help="file, public weights (file or folder), bundled name, or 'none' (the bundled 'fast' for the "
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

    from . import media
    from .cli_segments import Segments
    from .cuts import parse_gaps
    from .sheet import contact_sheet
    from .timeline import check_reseeded, parse_positions, parse_reseed, seed_of

    reseeded = parse_reseed(args.reseed)
    sources = _sources(args)
    _check_outputs(args, sources)
    source = media.open_source(sources)
    height, width = source.size
    if max(height, width) > LONGEST * min(height, width):
        raise ValueError(f"keyframes of {width}x{height} are too narrow (at most {LONGEST} to 1); crop them")
    if args.seed + source.count - 2 + args.loop > LARGEST_SEED:  # each gap takes the next seed
        raise ValueError(f"seed {args.seed} leaves no seeds for {source.count - 1} gaps; use a smaller one")
    positions = None if args.positions is None else parse_positions(args.positions, source.count)
    skipped = frozenset(parse_gaps(args.skip, source.count - 1 + args.loop))
    device = choose_device(args.device)

    from .svd.interpolate import segment_drawing, trained_under, work
    from .svd.load import load_svd
    from .svd.settings import Settings, check_method, method_of
    from .tiny import TINY

    model: str | Path = TINY if args.model is None else args.model
    bundled = Path(model).resolve() == TINY.resolve()
    if not bundled and sys.stderr.isatty():  # ten gigabytes take a while
        print(f"loading {model}", file=sys.stderr)
    svd = load_svd(model, device, _dtype(args.dtype, device, bundled))
    adapter = find_adapter(args.adapter, bundled)
    method = args.method or method_of(adapter)
    check_method(method, adapter)
    trained = trained_under(svd, adapter)
    timeline, keeps_time = _timeline(args, source, trained, positions, skipped)
    check_reseeded(timeline, reseeded)
    media.check_output(args.out, timeline.fps)
    sound = source.sound if keeps_time else None
    if sound and args.out.suffix.lower() != ".mp4":
        _note(f"{args.out.name} holds no sound; an .mp4 does")
    settings = Settings(
        steps=args.steps,
        seed=args.seed,
        guidance=args.guidance,
        guidance_shape=args.guidance_shape,
        size=args.size,
        churn=args.churn,
        colour_lock=args.colour_lock,
        clip_frames=args.clip_frames,
        method=method,
    )
    segments = Segments(args.out, _alike(args, svd, trained, settings), source, timeline)
    draw = segment_drawing(svd, adapter, settings, height, width)
    tell_origin(adapter)  # once nothing is refused any more
    segments.draw(
        draw,
        work(timeline, settings, trained),
        {s.number: seed_of(s, args.seed, reseeded) for s in timeline.segments},
    )
    kept = "what was drawn is kept, the same command goes on from there"
    try:
        media.write_film(segments.film(), args.out, timeline.fps, sound)
    except ValueError as error:
        raise ValueError(f"{error}; {kept}") from error
    except KeyboardInterrupt:
        raise KeyboardInterrupt(kept) from None
    if args.sheet:
        sheet = contact_sheet((frame / 255 for frame in segments.film()), timeline.shown)
        media.write_picture((sheet * 255).round().to(torch.uint8), args.sheet)
    if not args.keep_segments:
        segments.forget()
    shape = f"{timeline.frames} frames of {width}x{height}"
    print(f"{args.out.resolve()}: {shape}, {timeline.fps:g} a second, seed {args.seed}")
    if args.sheet:
        print(f"{args.sheet.resolve()}: contact sheet, keyframes framed in orange")


def _timeline(
    args: argparse.Namespace,
    source: Source,
    trained: Mapping[str, Any],
    positions: tuple[int, ...] | None,
    skipped: frozenset[int],
) -> tuple[Timeline, bool]:
    """Where the keyframes stand, and whether the film lasts as long as they did."""
    from .cuts import find_cuts
    from .timeline import Timeline, even_timeline, resampled_timeline, timed_timeline

    if args.cuts == "auto" or (args.cuts is None and source.video):
        again = islice(source.frames(), 1) if args.loop else ()  # the way back may be a cut, too
        if cuts := find_cuts(chain(source.frames(), again)):
            _note(f"held at the scene cuts behind frames {', '.join(map(str, cuts))} (--cuts off fills them)")
            skipped |= set(cuts)
    source_fps = args.source_fps or source.fps
    count = args.frames or trained["frames"] - 2
    keeps_time = False
    if positions is not None:
        timeline = Timeline(positions, count + 1 if args.loop else None, args.fps or trained["fps"], skipped)
    elif args.fps and source_fps and not args.frames:
        keeps_time = not args.loop and args.source_fps in (None, source.fps)
        if source.times is None or args.source_fps:
            timeline = resampled_timeline(source.count, source_fps, args.fps, args.loop, skipped)
        else:
            timeline = timed_timeline(source.times, args.fps, args.loop, skipped)
    else:
        natural = source_fps * (count + 1) if source_fps else float(trained["fps"])
        fps = natural if args.fps is None else args.fps
        as_long = fps == natural and not args.loop and args.source_fps in (None, source.fps)
        keeps_time = as_long and source.steady
        if as_long and source.sound and not keeps_time:
            _note("the video's frames are unevenly apart, so the film has no sound; --fps keeps their times")
        timeline = even_timeline(source.count, count, fps, args.loop, skipped)
    return timeline, keeps_time


def _alike(args: argparse.Namespace, svd: SVD, trained: Mapping[str, Any], settings: Settings) -> str:
    """What a segment depends on besides its keyframes, length and seed."""
    from .tiny import ADAPTERS, TINY
    from .weights import files_behind

    model = Path(args.model or TINY)
    files = sorted(model.rglob("*.safetensors")) if model.is_dir() else [model]
    adapter = ADAPTERS.get(args.adapter or "fast") or Path(args.adapter or "")
    files += files_behind(adapter)
    stamps = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.is_file()]
    own = dataclasses.asdict(settings) | {"seed": None, "dtype": str(svd.unet.dtype)}
    told = [version(), args.model, args.adapter, stamps, dict(trained), own]
    return json.dumps(told, sort_keys=True)


def version() -> str:
    """Of this package, where it is installed as one."""
    from importlib import metadata

    try:
        return metadata.version("svd-vfi")
    except metadata.PackageNotFoundError:
        return "unknown"


def _note(words: str) -> None:
    print(f"svd-vfi: note: {words}", file=sys.stderr)


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
    if args.positions is not None and args.frames and not args.loop:
        raise ValueError("--positions and --frames both say how far apart the keyframes are; give one")
    if args.source_fps is not None and not args.source_fps > 0:
        raise ValueError(f"--source-fps is {args.source_fps:g}; use more than 0")
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
    """The weights of this name; None for no adapter. Raises ValueError."""
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
    return load_weights(path)


def tell_origin(weights: Weights | None) -> None:
    """Whose published weights these are and under which licence, on stderr; nothing for our own."""
    if weights is not None and weights.notice:
        print(f"svd-vfi: {weights.notice}", file=sys.stderr)


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
