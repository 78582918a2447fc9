"""Films of a few small frames, written in every layout that training reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from vfi_core.media import write_film
from vfi_core.training.clips import ClipSource, open_clips
from vfi_core.training.clips_config import ClipsConfig

# Pythons from 3.12 on warn of any fork beside threads, and torch of more processes than processors.
FORKED = pytest.mark.filterwarnings(
    "ignore:.*multi-threaded:DeprecationWarning", "ignore:This DataLoader will create:UserWarning"
)


def scene(seed: int, frames: int = 12, height: int = 64, width: int = 96, step: int = 3) -> Tensor:
    """A window that pans over a picture of its own, [t, H, W, 3] uint8, ``step`` pixels a frame."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 9, 24, generator=g)
    wide = torch.nn.functional.interpolate(coarse, (height, width + frames * step), mode="bilinear")
    picture = (wide[0].permute(1, 2, 0) * 255).byte()
    return torch.stack([picture[:, i * step : i * step + width] for i in range(frames)])


def save_frames(frames: Tensor, folder: Path, name: str = "{:04}.png", first: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, frame in enumerate(frames):
        Image.fromarray(frame.numpy()).save(folder / name.format(first + i))
    return folder


def save_video(frames: Tensor, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_film(frames, path, 24)
    return path


def septuplets(root: Path, count: int = 3) -> Path:
    """Vimeo-90K as published, the last septuplet left to the test."""
    names = [f"{1 + i // 2:05}/{1 + i % 2:04}" for i in range(count + 1)]
    for i, name in enumerate(names):
        save_frames(scene(i, 7), root / "sequences" / name, "im{}.png")
    (root / "sep_trainlist.txt").write_text("\n".join(names[:-1]) + "\n\n")
    (root / "sep_testlist.txt").write_text(names[-1] + "\n")
    return root


def videos(root: Path, count: int = 3) -> Path:
    for i in range(count):
        save_video(scene(i), root / ("more" if i else "") / f"{i}.mp4")
    (root / "notes.txt").write_text("no video")
    return root


def sequences(root: Path, count: int = 3) -> Path:
    for i in range(count):
        save_frames(scene(i), root / f"film{i}")
    return root


def a_list(root: Path) -> Path:
    save_video(scene(0), root / "a.mp4")
    save_frames(scene(1), root / "frames" / "b")
    far = save_frames(scene(2), root / "elsewhere" / "c")
    (root / "films.txt").write_text(f"# ours\na.mp4\nframes/b\n\n{far}\n")
    return root / "films.txt"


def windows(root: Path, count: int = 3) -> Path:
    for i in range(count):
        save_video(scene(i, 16), root / "videos" / f"{i}.mp4")
    listed = [
        {"video": f"{i}.mp4", "start": s, "stride": 2, "frames": 7, "motion_mad": 3.0 + s}
        for i in range(count)
        for s in (0, 3)
    ]
    (root / "windows.json").write_text(json.dumps({"windows": listed}))
    return root


LAYOUTS = {
    "septuplets": septuplets,
    "videos": videos,
    "sequences": sequences,
    "list": a_list,
    "windows": windows,
}


def opened(root: Path, folder: Path, log=lambda line: None, **settings) -> ClipSource:
    config = {"size": (64,), "procedural": 0.0} | settings
    return open_clips(ClipsConfig(str(root), **config), root, folder, log)
