"""A small and a large motion, as the bundled miniature draws them, below the truth: README's strips.

    python benchmarks/strips.py web/strips.jpg

Of 32 plain drawn scenes that no training saw, in the order of a cross-fade's error, the eighth and the
twenty-fourth. Prints each film's PSNR over the frames between the keyframes.

Legend: t frames, H W pixels.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from vfi_core.adapter import load_adapter
from vfi_core.evaluation.metrics import psnr
from vfi_core.svd.interpolate import interpolate
from vfi_core.svd.load import load_svd
from vfi_core.svd.settings import Settings
from vfi_core.tiny import ADAPTERS, TINY
from vfi_core.training.clips import PLAIN
from vfi_core.training.procedural import procedural_clip

FIRST_SEED, SCENES, SHOWN = 5000, 32, (7, 23)
MARGIN, LABEL = 4, 132  # pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    svd = load_svd(TINY)
    frames, size = int(svd.config["frames"]), int(svd.config["size"][0])
    clips = [_scene(FIRST_SEED + number, frames, size) for number in range(SCENES)]
    clips.sort(key=lambda clip: -_mean_psnr(_faded(clip), clip))
    rows: list[tuple[str, Tensor]] = []
    for name, clip in zip(("small motion", "large motion"), (clips[i] for i in SHOWN), strict=True):
        films = {"truth": clip, "cross-fade": _faded(clip)}
        settings = Settings(steps=args.steps)
        for label, adapter in (("no adapter", None), ("paper", "paper"), ("fast", "fast")):
            weights = load_adapter(ADAPTERS[adapter]) if adapter else None
            films[label] = interpolate(svd, [clip[0], clip[-1]], settings, weights)
        for label, film in films.items():
            if film is not clip:
                print(f"{name}, {label}: {_mean_psnr(film, clip):.2f} dB", flush=True)
        rows += films.items()
    _picture(rows, len(rows) // 2).save(args.out, quality=88)


def _scene(seed: int, frames: int, size: int) -> Tensor:
    """[t, H, W, 3] in 0..1."""
    g = torch.Generator().manual_seed(seed)
    clip = procedural_clip(g, frames, size, motion=0.7, contrast=PLAIN)
    return (clip.permute(0, 2, 3, 1) + 1) / 2


def _faded(clip: Tensor) -> Tensor:
    way = torch.linspace(0, 1, len(clip)).view(-1, 1, 1, 1)
    return torch.lerp(clip[:1], clip[-1:], way)


def _mean_psnr(film: Tensor, clip: Tensor) -> float:
    return psnr(film[1:-1], clip[1:-1]).mean().item()


def _picture(rows: list[tuple[str, Tensor]], together: int) -> Image.Image:
    """Every film a row with its name in front, a gap between the two scenes."""
    t, side = rows[0][1].shape[:2]
    step = side + MARGIN
    height = len(rows) * step + 3 * MARGIN
    picture = Image.new("RGB", (LABEL + t * step, height), (24, 24, 24))
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(17)
    for i, (label, film) in enumerate(rows):
        y = MARGIN + i * step + (3 * MARGIN if i >= together else 0) - MARGIN
        pen.text((8, y + side // 2), label, (230, 230, 230), font, anchor="lm")
        for j, frame in enumerate(film):
            pixels = (frame.clamp(0, 1) * 255).round().byte().numpy()
            picture.paste(Image.fromarray(pixels), (LABEL + j * step, y))
    return picture


if __name__ == "__main__":
    main()
