"""`svd-vfi train CONFIG.toml --plan`: the plan of a configuration."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from .plan import lines_of, plan_training
from .recipes import BaseRecipe, VAERecipe, base_config, conditions_of, read_recipe
from .trainable import preset


def plan_recipe(config: Path, device: torch.device) -> list[str]:
    """What training ``config`` would take, as lines; see `plan`. Of the base its header alone is read."""
    recipe = read_recipe(config)
    if isinstance(recipe, VAERecipe):
        raise ValueError(f"{config}: there is no plan of a VAE; it is small, train it")
    c, processes = recipe.clips, int(os.environ.get("WORLD_SIZE", "1"))
    if isinstance(recipe, BaseRecipe):
        base, options = recipe.model, None
        told = {name: base[name] for name in ("fps", "motion_bucket_id", "augmentation")}
    else:
        base = base_config(recipe.base)
        options, told = preset(recipe.preset, recipe.options), conditions_of(recipe, base)
    height, width = c.height_width
    training = told | {"frames": c.most_frames, "size": (height, width)}
    plan = plan_training(base, options, recipe.train, training, device, processes)
    part = f"{recipe.train.accumulate} x {recipe.train.part(processes)} of {recipe.train.batch} clips"
    return [
        f"{part} a step on {device}, each {c.most_frames} frames of {width}x{height}",
        *lines_of(plan, recipe.train, device),
    ]
