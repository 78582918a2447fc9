"""Films drawn while a run goes on: what the losses do not tell.

Legend: t frames, H W pixels.
"""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportGeneralTypeIssues=false
# diffusers annotates only its tuple returns, and torch every submodule as Tensor | Module.

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from ..media import read_picture, video_frames, write_film, write_picture
from ..sheet import contact_sheet
from ..sizes import fit
from ..svd.adapted import AdapterModules
from ..svd.load import SVD
from ..svd.pictures import decode
from ..svd.sample import sample_segment
from ..svd.settings import Settings
from .rows import read_rows, write_rows
from .settings import ValidationConfig

FIGURES = "psnr.csv"


class Films:
    """The films of a ``config`` under OUT/validation: an mp4 and a contact sheet for each, drawn from fixed
    seeds by a run's modules as they are.

    training  frames, size, and the conditions of `sample_segment`
    Raises ValueError for a picture or a film that cannot be read, before anything is trained.
    """

    def __init__(
        self,
        svd: SVD,
        modules: AdapterModules | None,
        config: ValidationConfig,
        training: Mapping[str, Any],
        out: Path,
    ) -> None:
        self.svd, self.modules, self.config = svd, modules, config
        self.trained = dict(svd.config) | dict(training)
        self.folder = out / "validation"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.frames = int(self.trained["frames"])
        size = (int(self.trained["size"][0]), int(self.trained["size"][1]))
        # [2, 3, H, W] in -1..1, and the t frames between if they are known
        self.ends: dict[str, Tensor] = {}
        self.truths: dict[str, Tensor] = {}
        for i, pair in enumerate(config.keyframes):
            pictures = [fit(_unit(read_picture(Path(p)))[None], size) for p in pair]
            self.ends[f"{i + 1:02d}-{Path(pair[0]).stem}"] = torch.cat(pictures)
        for i, film in enumerate(config.films):
            frames = list(islice(video_frames(Path(film)), self.frames))
            if len(frames) < self.frames:
                raise ValueError(f"{film} has {len(frames)} frames; a validation film needs {self.frames}")
            name = f"{len(config.keyframes) + i + 1:02d}-{Path(film).stem}"
            self.truths[name] = fit(torch.stack([_unit(frame) for frame in frames]), size)
            self.ends[name] = self.truths[name][[0, -1]]

    def due(self, step: int) -> bool:
        """Whether films are drawn after this many steps."""
        return step % self.config.every == 0

    @torch.no_grad()
    def draw(self, step: int, accelerator: Accelerator, log: Callable[[str], None]) -> None:
        """Draw them all. Chance comes from their own seed: the training's course does not see it."""
        settings = Settings(steps=self.config.steps, seed=self.config.seed)
        figures = read_rows(self.folder / FIGURES, step - 1)
        for name, ends in self.ends.items():
            latents = sample_segment(
                self.svd, self.modules, ends, self.frames, settings, self.trained, self.config.seed
            )
            film = _bytes(decode(self.svd, latents))  # [t, H, W, 3]
            truth = self.truths.get(name)
            below = None if truth is None else _bytes(truth)
            sheet = _sheet(film, below)
            write_film(film, self.folder / f"{step:06d}-{name}.mp4", float(self.trained["fps"]))
            write_picture(sheet, self.folder / f"{step:06d}-{name}.png")
            for tracker in accelerator.trackers:
                tracker.log_images({name: sheet[None].numpy()}, step=step, dataformats="NHWC")
            if below is not None:
                figure = _psnr(film[1:-1], below[1:-1])
                figures.append([str(step), name, f"{figure:.4f}"])
                log(f"step {step}: {name} {figure:.2f} dB")
                accelerator.log({f"psnr/{name}": figure}, step=step)
        if self.truths:
            write_rows(self.folder / FIGURES, ("step", "film", "psnr"), figures)


def _unit(picture: Tensor) -> Tensor:
    """[H, W, 3] uint8 as [3, H, W] in -1..1."""
    return picture.permute(2, 0, 1).float() / 127.5 - 1


def _bytes(film: Tensor) -> Tensor:
    """[t, 3, H, W] in -1..1 as [t, H, W, 3] uint8 on the CPU."""
    return ((film.float().cpu().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1)


def _sheet(film: Tensor, below: Tensor | None) -> Tensor:
    second = None if below is None else below.float() / 255
    sheet = contact_sheet(film.float() / 255, (0, len(film) - 1), below=second)
    return (sheet * 255).round().byte()


def _psnr(film: Tensor, truth: Tensor) -> float:
    """Mean over the frames, in dB, of uint8 films."""
    errors = (film.float() - truth.float()).pow(2).flatten(1).mean(1).tolist()
    return sum(10 * math.log10(255**2 / max(e, 1e-10)) for e in errors) / len(errors)
