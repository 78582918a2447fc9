"""Filling a masked latent by the host's samplers, with guidance per frame and a preview of the middle one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
from torch import Tensor

from ...vfi_core.samplers import triangle_guidance
from .pictures import GUIDANCE_KEY

SAMPLERS, SCHEDULERS = comfy.samplers.SAMPLER_NAMES, comfy.samplers.SCHEDULER_NAMES
Progress = Callable[[int, Any], None]  # finished steps of this sampling, and a preview (or None)


def guided(model: Any, frames: int, ends: float, middle: float) -> tuple[Any, float]:
    """(MODEL, cfg): a clone with guidance ``ends`` on both keyframes and ``middle`` half-way.

    Equal values are the host's own cfg, and 1 skips the unconditional branch.
    """
    if ends == middle:
        return model, middle
    scale = triangle_guidance(frames, ends, middle).view(-1, 1, 1, 1)

    def triangle(args: dict[str, Any]) -> Tensor:
        cond, uncond = args["cond"], args["uncond"]
        return uncond + scale.to(cond) * (cond - uncond)

    patched = model.clone()
    # Else the host would leave out the unconditional branch wherever its one number is 1.
    patched.set_model_sampler_cfg_function(triangle, disable_cfg1_optimization=True)
    return patched, middle


def fill(
    model: Any,
    positive: Any,
    negative: Any,
    latent: dict[str, Any],
    seed: int,
    steps: int,
    cfg: tuple[float, float],
    sampler: str,
    scheduler: str,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """LATENT with the unknown frames filled; ``latent`` is not written to. A cancel takes effect at a step.

    cfg       (ends, middle); 0 is what the conditioning says the model was trained for, 1 without that
    progress  in place of a bar of this sampling's own
    """
    samples = latent["samples"]
    trained = positive[0][1].get(GUIDANCE_KEY, (1.0, 1.0))
    patched, scale = guided(
        model, len(samples), *(given or own for given, own in zip(cfg, trained, strict=True))
    )
    if progress is None:
        bar = comfy.utils.ProgressBar(steps)

        def progress(step: int, preview: Any) -> None:
            bar.update_absolute(step, steps, preview)

    previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)

    def callback(step: int, x0: Tensor, _x: Tensor, _total: int) -> None:
        middle = x0[len(x0) // 2][None]
        preview = previewer.decode_latent_to_preview_image("JPEG", middle) if previewer else None
        progress(step + 1, preview)
        comfy.model_management.throw_exception_if_processing_interrupted()

    filled = comfy.sample.sample(
        patched,
        comfy.sample.prepare_noise(samples, seed),
        steps,
        scale,
        sampler,
        scheduler,
        positive,
        negative,
        samples,
        noise_mask=latent.get("noise_mask"),
        callback=callback,
        seed=seed,
    )
    return latent | {"samples": filled}
