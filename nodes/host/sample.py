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

from ...vfi_core.samplers import fuse_directions, triangle_guidance
from .apply import with_keyframes
from .control import KEY
from .pictures import GUIDANCE_KEY, TURNED_KEY

SAMPLERS, SCHEDULERS = comfy.samplers.SAMPLER_NAMES, comfy.samplers.SCHEDULER_NAMES
Progress = Callable[[int, Any], None]  # finished steps of this sampling, and a preview (or None)


class TurnedGuider(comfy.samplers.CFGGuider):
    """The clip onwards from the first keyframe, cross-faded with the clip backwards from the last one: time-
    reversal fusion as one denoiser, two calls in one (see `fuse_directions`).
    """

    def set_conds(self, positive: Any, negative: Any) -> None:
        if TURNED_KEY not in positive[0][1]:
            raise ValueError(
                "'fused' needs to know the clip backwards, and this conditioning does not; connect 'SVD VFI "
                "Conditioning' to the sampler"
            )
        turned = positive[0][1][TURNED_KEY]
        control, own = (branch[0][1].get("control") for branch in (positive, turned[0]))
        if getattr(control, "previous_controlnet", None) is not None or type(control) is not type(own):
            raise ValueError(
                "'fused' also draws the clip backwards, and another ControlNet cannot be turned round with "
                "it; take that away, or use 'held'"
            )
        names = ("positive", "negative", "positive_turned", "negative_turned")
        self.inner_set_conds(dict(zip(names, (positive, negative, *turned), strict=True)))

    def predict_noise(
        self,
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any] = {},  # noqa: B006 the host's own signature
        seed: int | None = None,
    ) -> Tensor:
        def direction(suffix: str) -> Callable[[Tensor, Tensor], Tensor]:
            conds = [self.conds[name + suffix] for name in ("negative", "positive")]
            options = with_keyframes(model_options, conds[1][0][KEY])
            return lambda x, timestep: comfy.samplers.sampling_function(
                self.inner_model, x, timestep, *conds, self.cfg, model_options=options, seed=seed
            )

        return fuse_directions(direction(""), direction("_turned"))(x, timestep)


GUIDERS = {"held": comfy.samplers.CFGGuider, "fused": TurnedGuider}


def guider_of(
    model: Any, positive: Any, negative: Any, frames: int, cfg: tuple[float, float], method: str
) -> Any:
    """The host's GUIDER for one segment: guidance ``ends`` on both keyframes and ``middle`` half-way.

    cfg     (ends, middle); 0 is what the conditioning says the model was trained for, 1 without that. Equal
            values are the host's own cfg, and 1 skips the unconditional branch
    method  of `GUIDERS`
    Raises ValueError where `fused` has not what it needs.
    """
    trained = positive[0][1].get(GUIDANCE_KEY, (1.0, 1.0))
    ends, middle = (given or own for given, own in zip(cfg, trained, strict=True))
    if ends != middle:
        scale = triangle_guidance(frames, ends, middle).view(-1, 1, 1, 1)

        def triangle(args: dict[str, Any]) -> Tensor:
            cond, uncond = args["cond"], args["uncond"]
            return uncond + scale.to(cond) * (cond - uncond)

        model = model.clone()
        # Else the host would leave out the unconditional branch wherever its one number is 1.
        model.set_model_sampler_cfg_function(triangle, disable_cfg1_optimization=True)
    guider = GUIDERS[method](model)
    guider.set_conds(positive, negative)
    guider.set_cfg(middle)
    return guider


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
    progress: Progress | None = None,
) -> dict[str, Any]:
    """LATENT with the unknown frames filled; ``latent`` is not written to. A cancel takes effect at a step.

    cfg, method  see `guider_of`
    progress     in place of a bar of this sampling's own
    """
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
        comfy.samplers.sampler_object(sampler),
        schedule.sigmas,
        denoise_mask=latent.get("noise_mask"),
        callback=callback,
        seed=seed,
    )
    return latent | {"samples": filled.to(comfy.model_management.intermediate_device())}
