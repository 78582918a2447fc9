"""The three recipes a configuration can name: the tiny VAE, the tiny base on it, and an adapter on any
base.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..adapter import load_adapter, save_adapter
from ..config import SVDConfig
from ..files import replace_text, write_safetensors
from ..svd.load import FULL_SIZE, build, config_of, load_svd, save_single_file
from ..tiny import TINY
from .card import write_card
from .clips import ClipSource, open_clips
from .clips_config import ClipsConfig
from .config import build as build_config
from .config import read_toml
from .denoiser import train_adapter, train_base
from .estimates import FilmEstimates, check_encoder
from .launch import start_accelerator
from .pool import Crew, latent_pool
from .settings import PRECISIONS, TrainConfig, ValidationConfig
from .tiny_vae import VAEConfig, train_vae
from .trainable import preset


@dataclass(frozen=True)
class EstimatesConfig:
    """`[estimates]` of a decoder's training: it learns from what a base makes of noised clips, see
    `estimates.FilmEstimates`.

    base, adapter  `tiny` or a file, and an adapter's file or none; ``base`` empty for none of it
    share          of the clips that are estimated; the others' latents are the encoder's
    levels         lowest and highest noise level
    """

    base: str = ""
    adapter: str = ""
    share: float = 0.7
    levels: tuple[float, ...] = (1.0, 12.0)

    def __post_init__(self) -> None:
        if self.adapter and not self.base:
            raise ValueError(f"adapter is {self.adapter!r} without a base; give the base it was trained on")
        if not 0 <= self.share <= 1:
            raise ValueError(f"share is {self.share}; use 0 to 1")
        if len(self.levels) != 2 or not 0 < self.levels[0] <= self.levels[1]:
            raise ValueError(f"levels is {list(self.levels)}; use [lowest, highest], above 0")


@dataclass(frozen=True)
class VAERecipe:
    """`kind = "vae"`: writes vae.safetensors, in numbers that float16 holds: what is trained on it sees what
    ships.
    """

    clips: ClipsConfig
    vae: VAEConfig = field(default_factory=VAEConfig)
    start: str | None = None  # a vae.safetensors of the same widths to begin from, or `tiny`, the bundled one
    estimates: EstimatesConfig = field(default_factory=EstimatesConfig)

    def __post_init__(self) -> None:
        if self.vae.freeze_encoder and self.start is None:
            raise ValueError(
                "freeze_encoder keeps an encoder that was never trained; give start, a finished VAE"
            )
        if not self.estimates.base:
            return
        vae, room = self.vae, min(self.clips.height_width)
        if not vae.freeze_encoder:
            raise ValueError("[estimates] trains a decoder on a finished base's latents; set freeze_encoder")
        if vae.crop_frames > vae.frames or vae.crop > room or vae.crop % 8:
            raise ValueError(
                f"[estimates] crops {vae.crop_frames} frames of {vae.crop} pixels out of clips of "
                f"{vae.frames} of {room}; use no more than there are, and a multiple of 8 pixels"
            )


@dataclass(frozen=True)
class BaseRecipe:
    """`kind = "base"`: writes tiny_svd.safetensors. ``model`` is a configuration as
    `vfi_core.svd.load.build` takes.
    """

    clips: ClipsConfig
    vae: str  # a finished vae.safetensors, or `tiny`, the bundled one
    model: dict[str, Any]
    start: str | None = None  # a tiny_svd.safetensors of the same dimensions to begin from
    train: TrainConfig = field(default_factory=TrainConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)

    def __post_init__(self) -> None:
        if self.train.base_precision != "float32":
            raise ValueError(
                f"base_precision is {self.train.base_precision!r}, but nothing of a base is frozen here; "
                "leave it out"
            )


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
    validation: ValidationConfig = field(default_factory=ValidationConfig)


CONDITIONS = {"fps": 7, "motion_bucket_id": 127, "augmentation": 0.02, "guidance": [1.0, 3.0]}
Say = Callable[[str], None]
KEPT, STATE = "config.toml", "run.safetensors"
Recipe = VAERecipe | BaseRecipe | AdapterRecipe

RECIPES = {"vae": VAERecipe, "base": BaseRecipe, "adapter": AdapterRecipe}


def read_recipe(config: Path) -> Recipe:
    """The recipe a TOML file describes. Raises ValueError for one that cannot be used."""
    table = read_toml(config)
    kind = table.pop("kind", None)
    if kind not in RECIPES:
        raise ValueError(f"{config}: kind is {kind!r}; use one of {', '.join(RECIPES)}")
    return build_config(RECIPES[kind], table, str(config))


def run_recipe(config: Path, out: Path, device_name: str, data: Path | None) -> Path | None:
    """Train one recipe; see `vfi_core.training.run`."""
    recipe = read_recipe(config)
    if data is None and not recipe.clips.root:
        raise ValueError(f"{config} names no films; give root in [clips], or --data")
    _check_ahead(recipe)
    settings = TrainConfig() if isinstance(recipe, VAERecipe) else recipe.train
    accelerator = start_accelerator(settings, torch.device(device_name), out)
    if isinstance(recipe, VAERecipe) and accelerator.num_processes > 1:
        raise ValueError(f"{config}: the VAE trains in one process; start it without accelerate launch")
    device = accelerator.device if accelerator.num_processes > 1 else torch.device(device_name)
    say = _say if accelerator.is_main_process else _nothing
    with accelerator.main_process_first():
        _refuse_another(config, out)
        clips = open_clips(recipe.clips, data or Path(recipe.clips.root), _cache(recipe.clips, out), say)
        out.mkdir(parents=True, exist_ok=True)
        if accelerator.is_main_process:
            replace_text(out / KEPT, config.read_text(encoding="utf-8"))

    if isinstance(recipe, VAERecipe):
        path = _vae(recipe, clips, out, device, say)
    elif isinstance(recipe, BaseRecipe):
        path = _base(recipe, clips, out, device, say, accelerator)
    else:
        path = _adapter(recipe, clips, out, device, say, accelerator)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return path if accelerator.is_main_process else None


def _check_ahead(recipe: Recipe) -> None:
    """ValueError for what would else be found only behind the films and the encoding."""
    if isinstance(recipe, VAERecipe):
        if recipe.estimates.base:
            base_config(recipe.estimates.base)
        if recipe.estimates.adapter:
            load_adapter(Path(recipe.estimates.adapter))
        return
    looked_at = recipe.validation
    for path in [p for pair in looked_at.keyframes for p in pair] + list(looked_at.films):
        if not Path(path).exists():
            raise ValueError(f"[validation] names {path}, which is not there; mend the path")
    if isinstance(recipe, AdapterRecipe):
        preset(recipe.preset, recipe.options)
        conditions_of(recipe, base_config(recipe.base))
        if recipe.start is not None:
            load_adapter(Path(recipe.start))


def base_config(base: str) -> SVDConfig:
    """The dimensions of the base that a configuration names. Raises ValueError for one that cannot be."""
    named = Path(base).suffix == "" and base.count("/") == 1  # a hub's id
    if base != "tiny" and not Path(base).exists() and not named:
        raise ValueError(f"no base at {base}; give 'tiny', a checkpoint, a diffusers folder or a hub id")
    return config_of(TINY if base == "tiny" else base)


def _refuse_another(config: Path, out: Path) -> None:
    """ValueError where the run of another configuration lies; a comment or more workers make no other."""
    kept = out / KEPT
    if (out / STATE).exists() and kept.exists() and _essence(kept) != _essence(config):
        raise ValueError(f"{out} holds a run of another configuration; use a new folder with -o")


def _essence(config: Path) -> Recipe:
    recipe = read_recipe(config)
    recipe = dataclasses.replace(recipe, clips=dataclasses.replace(recipe.clips, workers=0, cache=""))
    if isinstance(recipe, VAERecipe):
        return recipe
    return dataclasses.replace(recipe, validation=ValidationConfig())


def _cache(clips: ClipsConfig, out: Path) -> Path:
    return Path(clips.cache) if clips.cache else out


def _crew(accelerator: Accelerator) -> Crew:
    return Crew(accelerator.process_index, accelerator.num_processes, accelerator.wait_for_everyone)


def _vae(recipe: VAERecipe, clips: ClipSource, out: Path, device: torch.device, say: Say) -> Path:
    start = None if recipe.start is None else _vae_weights(recipe.start)
    estimates = None
    if (made := recipe.estimates).base:
        svd = load_svd(TINY if made.base == "tiny" else made.base)
        check_encoder(svd, start or {}, str(recipe.start))
        adapter = load_adapter(Path(made.adapter)) if made.adapter else None
        low, high = made.levels
        estimates = FilmEstimates(svd, adapter, clips, made.share, (low, high))
    vae = train_vae(recipe.vae, clips, out, device, say, start, estimates).half().float()
    path = out / "vae.safetensors"
    described = {"format": "svd-vfi-vae/1", "vae": json.dumps(dataclasses.asdict(recipe.vae))}
    write_safetensors(path, vae.state_dict(), described)
    return path


def _vae_weights(path: str) -> dict[str, Tensor]:
    if path == "tiny":
        return load_svd(TINY).vae.state_dict()
    if not Path(path).is_file():
        raise ValueError(f"no VAE at {path}; train it first with a configuration of kind 'vae'")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole safetensors file ({error}); train it again") from error


def _base(
    recipe: BaseRecipe,
    clips: ClipSource,
    out: Path,
    device: torch.device,
    say: Say,
    accelerator: Accelerator,
) -> Path:
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
    folder = _cache(recipe.clips, out) / "pool"
    pool = latent_pool(svd, clips, folder, frozen=False, log=say, crew=_crew(accelerator))
    train_base(svd, pool, recipe.train, training, out, say, recipe.validation, accelerator)
    path = out / "tiny_svd.safetensors"
    if accelerator.is_main_process:
        save_single_file(svd, path)
    return path


def _adapter(
    recipe: AdapterRecipe,
    clips: ClipSource,
    out: Path,
    device: torch.device,
    say: Say,
    accelerator: Accelerator,
) -> Path:
    options = preset(recipe.preset, recipe.options)
    start = None if recipe.start is None else load_adapter(Path(recipe.start))
    precision = PRECISIONS[recipe.train.base_precision]
    svd = load_svd(TINY if recipe.base == "tiny" else recipe.base, device, precision)
    c = recipe.clips
    training = conditions_of(recipe, svd.config) | {
        "frames": c.most_frames,
        "size": list(c.height_width),
        "data": f"{c.pool} clips of {clips.root.name}, {c.procedural:.0%} procedural",
        "licence": recipe.licence,
    }
    folder = _cache(c, out) / "pool"
    pool = latent_pool(svd, clips, folder, training["augmentation"], log=say, crew=_crew(accelerator))
    adapter = train_adapter(
        svd, options, pool, recipe.train, training, out, say, start, recipe.validation, accelerator
    )
    path = out / "adapter.safetensors"
    if accelerator.is_main_process:
        save_adapter(adapter, path)
        write_card(out, path, adapter, recipe.train, recipe.licence)
    return path


def conditions_of(recipe: AdapterRecipe, base: SVDConfig) -> dict[str, Any]:
    """fps, motion bucket, augmentation and guidance: the recipe's, else the base's, else the usual ones."""
    if unknown := sorted(set(recipe.conditions) - set(CONDITIONS)):
        raise ValueError(f"unknown condition '{unknown[0]}' (use {', '.join(CONDITIONS)})")
    return CONDITIONS | {name: base[name] for name in CONDITIONS if name in base} | recipe.conditions


def _say(line: str) -> None:
    print(line, flush=True)


def _nothing(_line: str) -> None:
    pass
