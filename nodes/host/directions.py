"""Guiders that draw a clip from both of its ends, for weights that never learnt to reach the last one.

Legend: t frames, h w latent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ...vfi_core.keyframes import Keyframes, blend_known
from ...vfi_core.reversal import Reversal
from ...vfi_core.samplers import (
    IN_TURN,
    RENOISING_SEED,
    Estimates,
    average_directions,
    fuse_directions,
    offset_seed,
    sample_reinjecting,
)
from .apply import with_keyframes, with_run
from .control import KEY, SCALE
from .pictures import TURNED_KEY

ONWARDS, BACKWARDS = "", "_turned"  # endings of the names of a guider's conditions


class DirectedGuider(comfy.samplers.CFGGuider):
    """The host's guider with the conditioning of the clip backwards beside that of the clip."""

    def set_conds(self, positive: Any, negative: Any) -> None:
        """Raises ValueError where the clip backwards is not known, or something is bound to its order."""
        if TURNED_KEY not in positive[0][1]:
            raise ValueError(
                "drawing from both ends needs to know the clip backwards, and this conditioning does not; "
                "connect 'SVD VFI Conditioning', or use the method 'held'"
            )
        turned = positive[0][1][TURNED_KEY]
        control, own = (branch[0][1].get("control") for branch in (positive, turned[0]))
        if getattr(control, "previous_controlnet", None) is not None or type(control) is not type(own):
            raise ValueError(
                "the clip is drawn backwards too, and another ControlNet cannot be turned round with it; "
                "take that away, or use the method 'held'"
            )
        names = [name + ending for ending in (ONWARDS, BACKWARDS) for name in ("positive", "negative")]
        self.inner_set_conds(dict(zip(names, (positive, negative, *turned), strict=True)))

    def direction(self, ending: str, model_options: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
        """(positive, negative, options) of a call of the U-Net on the clip in one direction."""
        positive, negative = (self.conds[name + ending] for name in ("positive", "negative"))
        return positive, negative, with_keyframes(model_options, positive[0][KEY])


class FusedGuider(DirectedGuider):
    """Time-reversal fusion as one denoiser, two calls in one (see `fuse_directions`)."""

    combine = staticmethod(fuse_directions)

    def predict_noise(
        self,
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any] = {},  # noqa: B006 the host's own signature
        seed: int | None = None,
    ) -> Tensor:
        def denoiser(ending: str) -> Callable[[Tensor, Tensor], Tensor]:
            positive, negative, options = self.direction(ending, model_options)
            return lambda x, timestep: comfy.samplers.sampling_function(
                self.inner_model, x, timestep, negative, positive, self.cfg, model_options=options, seed=seed
            )

        return self.combine(denoiser(ONWARDS), denoiser(BACKWARDS))(x, timestep)


class ReversedGuider(FusedGuider):
    """The mean of both directions, backwards with the tuned weights of a `Reversal` on the model."""

    combine = staticmethod(average_directions)
    reverses = True

    def predict_noise(
        self,
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any] = {},  # noqa: B006 the host's own signature
        seed: int | None = None,
    ) -> Tensor:
        run = model_options.get("transformer_options", {}).get(KEY)
        if run is None or not isinstance(run.adapter, Reversal):
            raise ValueError(
                "the method 'reversed' needs the weights of Generative Inbetweening; load them as the "
                "adapter, and put them on the MODEL by 'SVD VFI Apply Adapter'"
            )
        return super().predict_noise(x, timestep, with_run(model_options, maps={}), seed)

    def direction(self, ending: str, model_options: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
        positive, negative, options = super().direction(ending, model_options)
        return positive, negative, with_run(options, turned=ending == BACKWARDS)


class BidirectionalGuider(DirectedGuider):
    """Either direction's estimates, for `sample_both_ways` alone.

    guidance  [t, 1, 1, 1]
    method    of `IN_TURN`
    """

    guidance: Tensor
    method: str

    def predict_noise(self, *_: Any, **__: Any) -> Tensor:
        raise ValueError(
            f"the method '{self.method}' steps in a way of its own; connect 'SVD VFI Bidirectional Sampler' "
            "as the sampler, or use the method 'fused'"
        )

    def estimates(self, ending: str, model_options: dict[str, Any]) -> Estimates:
        positive, negative, options = self.direction(ending, model_options)

        def both(x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
            guided, unguided = comfy.samplers.calc_cond_batch(
                self.inner_model, [positive, negative], x, sigma.expand(len(x)), options
            )
            return unguided, unguided + self.guidance.to(x) * (guided - unguided)

        return both


def sample_both_ways(
    model: Any,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any],
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
    method: str = "bidirectional",
) -> Tensor:
    """A method of `IN_TURN` on the host's sampler contract; both keyframes leave exact.

    Raises ValueError for a guider of another method.
    """
    guider = model.inner_model
    if not isinstance(guider, BidirectionalGuider):
        raise ValueError(
            "'SVD VFI Bidirectional Sampler' got a guider of another kind; set the method of 'SVD VFI "
            f"Guider' to '{method}'"
        )
    if guider.method != method:
        raise ValueError(
            f"'SVD VFI Bidirectional Sampler' is set to '{method}' and its guider to '{guider.method}'; set "
            "both to the same method"
        )
    keyframes: Keyframes = guider.conds["positive"][0][KEY]
    known = keyframes.known.to(x) * SCALE
    options, last = extra_args["model_options"], x

    def seen(estimates: Estimates) -> Estimates:
        def both(x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
            nonlocal last
            unguided, last = estimates(x, sigma)
            return unguided, last

        return both

    def told(i: int) -> None:
        if callback is not None:
            shown = {"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": last.flip(0)}
            callback(shown)

    x = x - model.latent_image  # the host begins with noise plus the known frames, the method with noise
    filled = IN_TURN[method](
        guider.estimates(ONWARDS, options),
        seen(guider.estimates(BACKWARDS, options)),
        x,
        sigmas,
        known[0],
        known[-1],
        torch.Generator().manual_seed(offset_seed(extra_args.get("seed") or 0, RENOISING_SEED)),
        told,
    )
    return blend_known(filled, known, keyframes.mask.to(x))


def sample_reversed(
    model: Any,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any],
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
) -> Tensor:
    """`sample_reinjecting` on the host's sampler contract; both keyframes leave exact."""
    guider, last = model.inner_model, x
    keyframes: Keyframes = guider.conds["positive"][0][KEY]
    seed = extra_args.get("seed")

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        nonlocal last
        last = guider(x, sigma.expand(len(x)), model_options=extra_args["model_options"], seed=seed)
        return last

    def told(i: int) -> None:
        if callback is not None:
            callback({"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": last})

    filled = sample_reinjecting(
        denoiser,
        x - model.latent_image,  # the host begins with noise plus the known frames, the method with noise
        sigmas,
        torch.Generator().manual_seed(offset_seed(seed or 0, RENOISING_SEED)),
        told,
    )
    return blend_known(filled, keyframes.known.to(x) * SCALE, keyframes.mask.to(x))
