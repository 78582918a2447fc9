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

from ...vfi_core.samplers import IN_TURN, mean_guidance, triangle_guidance
from .control import KEY
from .directions import (
    BidirectionalGuider,
    FusedGuider,
    ReversedGuider,
    sample_both_ways,
    sample_reversed,
)
from .pictures import GUIDANCE_KEY

SAMPLERS, SCHEDULERS = comfy.samplers.SAMPLER_NAMES, comfy.samplers.SCHEDULER_NAMES
CHURNED = ("euler", "heun", "dpm_2")
Progress = Callable[[int, Any], None]  # finished steps of this sampling, and a preview (or None)
GUIDERS = {
    "held": comfy.samplers.CFGGuider,
    "fused": FusedGuider,
    **dict.fromkeys(IN_TURN, BidirectionalGuider),
    "reversed": ReversedGuider,
}


def guider_of(
    model: Any, positive: Any, negative: Any, frames: int, cfg: tuple[float, float], method: str
) -> Any:
    """The host's GUIDER for one segment: guidance ``ends`` on both keyframes and ``middle`` half-way.

    cfg     (ends, middle); 0 is what the conditioning says the model was trained for, 1 without that (and
            for those in `IN_TURN`, made for little guidance; `reversed` takes the mean of the two). Equal
            values are the host's own cfg, and 1 skips the unconditional branch
    method  of `GUIDERS`
    Raises ValueError for another method, and where drawing from both ends has not what it needs.
    """
    if method not in GUIDERS:  # 0.3.64 does not look a choice up
        raise ValueError(f"method is {method!r}; use one of {', '.join(GUIDERS)}")
    none = (1.0, 1.0)
    trained = none if method in IN_TURN else positive[0][1].get(GUIDANCE_KEY, none)
    if method == "reversed":
        trained = mean_guidance(*trained)
    ends, middle = (given or own for given, own in zip(cfg, trained, strict=True))
    scale = triangle_guidance(frames, ends, middle).view(-1, 1, 1, 1)
    if ends != middle:

        def triangle(args: dict[str, Any]) -> Tensor:
            cond, uncond = args["cond"], args["uncond"]
            return uncond + scale.to(cond) * (cond - uncond)

        model = model.clone()
        # Else the host would leave out the unconditional branch wherever its one number is 1.
        model.set_model_sampler_cfg_function(triangle, disable_cfg1_optimization=True)
    guider = GUIDERS[method](model)
    if isinstance(guider, BidirectionalGuider):
        guider.guidance, guider.method = scale, method
    guider.set_conds(positive, negative)
    guider.set_cfg(middle)
    return guider


def both_ways(method: str) -> Any:
    """The SAMPLER that goes with a method of `IN_TURN`; ValueError for another one."""
    if method not in IN_TURN:
        raise ValueError(f"method is {method!r}; use one of {', '.join(IN_TURN)}")
    return comfy.samplers.KSAMPLER(sample_both_ways, {"method": method})


def sampler_of(method: str, name: str, churn: float) -> Any:
    """The SAMPLER of a method: the host's of this name, with S_churn where it has one, or its own."""
    if method in IN_TURN:
        return both_ways(method)
    if method == "reversed":
        return comfy.samplers.KSAMPLER(sample_reversed)
    if not churn:
        return comfy.samplers.sampler_object(name)
    return comfy.samplers.ksampler(name, {"s_churn": churn})


def segment_guider(model: Any, positive: Any, negative: Any, cfg: tuple[float, float], method: str) -> Any:
    """`guider_of` for the segment that the conditioning was made for, whatever sampler node it goes to."""
    if KEY not in positive[0][1]:
        raise ValueError("this conditioning has no keyframes; connect 'SVD VFI Conditioning' to the guider")
    return guider_of(model, positive, negative, positive[0][1][KEY].length, cfg, method)


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
    method: str = "held",
    churn: float = 0.0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """LATENT with the unknown frames filled; ``latent`` is not written to. A cancel takes effect at a step.

    cfg, method  see `guider_of`
    churn        S_churn, for the samplers that have it
    progress     in place of a bar of this sampling's own
    """
    own = method in IN_TURN or method == "reversed"
    if churn and (own or sampler not in CHURNED):
        name = method if own else sampler
        raise ValueError(f"churn is {churn:g} and {name} has none; use 0, or {', '.join(CHURNED)}")
    samples = latent["samples"]
    guider = guider_of(model, positive, negative, len(samples), cfg, method)
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

    schedule = comfy.samplers.KSampler(
        guider.model_patcher, steps, model.load_device, sampler, scheduler, model_options=guider.model_options
    )
    filled = guider.sample(
        comfy.sample.prepare_noise(samples, seed),
        samples,
        sampler_of(method, sampler, churn),
        schedule.sigmas,
        denoise_mask=latent.get("noise_mask"),
        callback=callback,
        seed=seed,
    )
    return latent | {"samples": filled.to(comfy.model_management.intermediate_device())}
