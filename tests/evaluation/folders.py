"""Folders as an evaluation leaves them, with numbers and films of noise."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image

METHODS = {
    "linear": "linear",
    "rife": "RIFE (published)",
    "fast": "fast",
    "vae": "VAE round trip of the truth",
}
NUMBERS = ["psnr", "psnr_centre", "ssim", "ssim_centre", "tof", "sharpness", "flow", "flow_truth", "endpoint"]
NUMBERS += ["lpips", "flip", "seconds", "calls"]


def results(
    clips: int = 7, sets: tuple[str, ...] = ("pans",), methods: dict[str, str] = METHODS
) -> list[dict]:
    """Lines as an evaluation leaves them: nothing asks for LPIPS, only "fast" asks a model."""
    rng, lines = np.random.default_rng(0), []
    for name in sets:
        for i in range(clips):
            clip = {"set": name, "clip": f"clip{i}", "motion": 1.5 * 2**i}
            clip["third"] = ("small", "medium", "large")[i * 3 // clips]
            for k, method in enumerate(methods):
                values = dict(zip(NUMBERS, rng.uniform(0.2, 0.9, len(NUMBERS)).tolist(), strict=True))
                values |= {
                    "psnr": 20 + k + values["psnr"],
                    "lpips": "",
                    "calls": 20 if method == "fast" else "",
                }
                lines.append(clip | {"method": method} | values)
    return lines


def folder(out: Path, lines: list[dict], films: bool = True, **config: object) -> Path:
    """The folder ``out`` with these results and films of noise, 5 frames of 12x10 pixels."""
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "results.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    known = {
        "methods": METHODS,
        "reference": "linear",
        "sets": {line["set"]: {"frames": 5} for line in lines},
    }
    (out / "config.json").write_text(json.dumps(known | config))
    rng = np.random.default_rng(1)
    for line in lines if films else []:
        place = out / "films" / line["set"] / line["clip"]
        place.mkdir(parents=True, exist_ok=True)
        strip = rng.integers(0, 256, (10, 60, 3), dtype=np.uint8)
        if (place / "truth.webp").exists():
            truth = np.asarray(Image.open(place / "truth.webp").convert("RGB"))
            strip[:, :12], strip[:, -12:] = truth[:, :12], truth[:, -12:]
            Image.fromarray(strip).save(place / f"{line['method']}.webp", lossless=True)
        else:
            Image.fromarray(strip).save(place / "truth.webp", lossless=True)
            Image.fromarray(strip).save(place / f"{line['method']}.webp", lossless=True)
    return out
