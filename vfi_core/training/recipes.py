"""The three recipes a configuration can name: the tiny VAE, the tiny base on it, and an adapter on any
base.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..adapter import load_adapter, save_adapter
from ..files import write_safetensors
from ..svd.load import FULL_SIZE, build, load_svd, save_single_file
from ..tiny import TINY
from .clips import ClipSource, open_clips
from .clips_config import ClipsConfig
from .config import build as build_config
from .config import read_toml
from .denoiser import TrainConfig, preset, train_adapter, train_base
from .pool import latent_pool
from .tiny_vae import VAEConfig, train_vae


@dataclass(frozen=True)
class VAERecipe:
    """`kind = "vae"`: writes vae.safetensors, in numbers that float16 holds: what is trained on it sees what
    ships.
    """

    clips: ClipsConfig
    vae: VAEConfig = field(default_factory=VAEConfig)
    start: str | None = None  # a vae.safetensors of the same widths to begin from


@dataclass(frozen=True)
class BaseRecipe:
    """`kind = "base"`: writes tiny_svd.safetensors. ``model`` is a configuration as
    `vfi_core.svd.load.build` takes.
    """

    clips: ClipsConfig
    vae: str  # a finished vae.safetensors
    model: dict[str, Any]
    start: str | None = None  # a tiny_svd.safetensors of the same dimensions to begin from
    train: TrainConfig = field(default_factory=TrainConfig)


@dataclass(frozen=True)
class AdapterRecipe:
    """`kind = "adapter"`: writes adapter.safetensors. ``base`` is `tiny`, a file, a diffusers folder or a
    hub id; ``start`` is an adapter of the same options to begin from.
    """

    clips: ClipsConfig
    base: str = "tiny"
    start: str | None = None
    preset: str = "fast"
    options: dict[str, Any] = field(default_factory=dict)
    conditions: dict[str, Any] = field(default_factory=dict)  # fps, motion_bucket_id, augmentation, guidance
    licence: str = "inherits the base model's licence"
    train: TrainConfig = field(default_factory=TrainConfig)


RECIPES = {"vae": VAERecipe, "base": BaseRecipe, "adapter": AdapterRecipe}


def run_recipe(config: Path, out: Path, device_name: str, data: Path | None) -> Path:
    """Train one recipe; see `vfi_core.training.run`."""
    table = read_toml(config)
    kind = table.pop("kind", None)
    if kind not in RECIPES:
        raise ValueError(f"{config}: kind is {kind!r}; use one of {', '.join(RECIPES)}")
    recipe = build_config(RECIPES[kind], table, str(config))
    kept = out / "config.toml"
    if kept.exists() and kept.read_bytes() != config.read_bytes():
        raise ValueError(f"{out} holds a run of another configuration; use a new folder with -o")
    clips = open_clips(recipe.clips, data or Path(recipe.clips.root), _cache(recipe.clips, out), _say)
    device = torch.device(device_name)
    out.mkdir(parents=True, exist_ok=True)
    if not kept.exists():
        shutil.copyfile(config, kept)

    if isinstance(recipe, VAERecipe):
        return _vae(recipe, clips, out, device)
    if isinstance(recipe, BaseRecipe):
        return _base(recipe, clips, out, device)
    return _adapter(recipe, clips, out, device)


def _cache(clips: ClipsConfig, out: Path) -> Path:
    return Path(clips.cache) if clips.cache else out


def _vae(recipe: VAERecipe, clips: ClipSource, out: Path, device: torch.device) -> Path:
    start = None if recipe.start is None else _vae_weights(recipe.start)
    vae = train_vae(recipe.vae, clips, out, device, _say, start).half().float()
    path = out / "vae.safetensors"
    described = {"format": "svd-vfi-vae/1", "vae": json.dumps(dataclasses.asdict(recipe.vae))}
    write_safetensors(path, vae.state_dict(), described)
    return path


def _vae_weights(path: str) -> dict[str, Tensor]:
    if not Path(path).is_file():
        raise ValueError(f"no VAE at {path}; train it first with a configuration of kind 'vae'")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole safetensors file ({error}); train it again") from error


def _base(recipe: BaseRecipe, clips: ClipSource, out: Path, device: torch.device) -> Path:
    weights = _vae_weights(recipe.vae)
    if lacking := sorted(set(FULL_SIZE) - set(recipe.model)):
        raise ValueError(f"[model] lacks '{lacking[0]}' (it needs {', '.join(FULL_SIZE)})")
    torch.manual_seed(recipe.train.seed)
    svd = build(recipe.model, device=device)
    try:
        svd.vae.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise ValueError(f"{recipe.vae} does not have the widths of [model.vae] ({first})") from error
    if recipe.start is not None:
        begun = load_svd(recipe.start, device)
        try:
            svd.unet.load_state_dict(begun.unet.state_dict())
            svd.image_encoder.load_state_dict(begun.image_encoder.state_dict())
        except RuntimeError as error:
            first = str(error).splitlines()[-1].strip()
            raise ValueError(f"{recipe.start} does not have the dimensions of [model] ({first})") from error
    svd.name = "tiny_svd"
    training = {name: recipe.model[name] for name in ("frames", "fps", "motion_bucket_id", "augmentation")}
    pool = latent_pool(svd, clips, _cache(recipe.clips, out) / "pool", frozen=False, log=_say)
    train_base(svd, pool, recipe.train, training, out, _say)
    path = out / "tiny_svd.safetensors"
    save_single_file(svd, path)
    return path


def _adapter(recipe: AdapterRecipe, clips: ClipSource, out: Path, device: torch.device) -> Path:
    options = preset(recipe.preset, recipe.options)
    start = None if recipe.start is None else load_adapter(Path(recipe.start))
    svd = load_svd(TINY if recipe.base == "tiny" else recipe.base, device)
    c = recipe.clips
    if unknown := sorted(set(recipe.conditions) - {"fps", "motion_bucket_id", "augmentation", "guidance"}):
        raise ValueError(
            f"unknown condition '{unknown[0]}' (use fps, motion_bucket_id, augmentation, guidance)"
        )
    conditions = {"fps": 7, "motion_bucket_id": 127, "augmentation": 0.02, "guidance": [1.0, 3.0]}
    conditions |= {name: svd.config[name] for name in conditions if name in svd.config} | recipe.conditions
    training = conditions | {
        "frames": c.most_frames,
        "size": list(c.height_width),
        "data": f"{c.pool} clips of {clips.root.name}, {c.procedural:.0%} procedural",
        "licence": recipe.licence,
    }
    pool = latent_pool(svd, clips, _cache(c, out) / "pool", training["augmentation"], log=_say)
    adapter = train_adapter(svd, options, pool, recipe.train, training, out, _say, start)
    path = out / "adapter.safetensors"
    save_adapter(adapter, path)
    return path


def _say(line: str) -> None:
    print(line, flush=True)
