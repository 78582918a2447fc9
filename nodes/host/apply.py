"""Weights for in-betweening onto a MODEL by wrappers around the U-Net, and known frames that hold.

Legend: b chunks of the batch (branches of guidance), t frames, h w latent.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...vfi_core.attention import Sites, attending
from ...vfi_core.clipspan import ClipSpan
from ...vfi_core.framer import Framer
from ...vfi_core.keyframes import Keyframes, blend_known
from ...vfi_core.reversal import Maps, Reversal
from ...vfi_core.samplers import clip_noise
from ...vfi_core.weights import Weights
from .control import KEY, SCALE, ConditionEncoderControl, check_whole, hinted, pixels, with_clean_known
from .encoder import blocks_of, build_attention, build_encoder, check_model, head_dim
from .framer import add_mask, set_weights, show, unset_weights
from .turned import build_turned, turn


@dataclass(frozen=True)
class Run:
    """What the wrapper around the U-Net needs to know, for the time of one sampling.

    sigmas  attention acts from the first of the two down to the second
    maps    of a `Reversal`: temporal attention of the clip onwards, kept by one call for the next
    turned  likewise: this call draws the clip backwards
    """

    guider: Any
    adapter: Weights
    keyframes: Keyframes
    strength: float
    sigmas: tuple[float, float]
    maps: Maps | None = None
    turned: bool = False

    def sites(self, device: torch.device) -> Sites | None:
        """The modules on the device that asks: each GPU has a clone of its own."""
        clones = self.guider.model_options.get("multigpu_clones", {})
        models = clones.get(device, self.guider.model_patcher).get_additional_models_with_key(KEY)
        return models[0].model if models else None


def apply_adapter(
    model: Any, adapter: Weights, strength: float = 1.0, start: float = 0.0, end: float = 1.0
) -> tuple[Any, ConditionEncoderControl | None]:
    """(MODEL, CONTROL_NET): a clone with keyframe attention, and the condition encoder.

    strength, start, end  of the attention; the encoder's are given where its keyframes are
    An adapter without tensors ("none") leaves the model as it is, but known frames are held all the same. A
    `Reversal`'s changes ride on the clone, for the backward calls of its own method, and need no encoder.
    Framer's weights replace the clone's, and need none either.
    Raises ValueError for a MODEL that is not SVD, or an adapter of another base.
    """
    shapes = check_model(model)
    patched = model.clone()
    for kind in (WrappersMP.OUTER_SAMPLE, WrappersMP.DIFFUSION_MODEL):
        patched.remove_wrappers_with_key(kind, KEY)
    patched.remove_additional_models(KEY)
    unset_weights(patched)
    control = None
    if isinstance(adapter, Framer | Reversal) and (strength, start, end) != (1.0, 0.0, 1.0):
        raise ValueError(
            f"strength and percents are keyframe attention's, and {adapter.name} has none; leave them at 1, "
            "0 and 1"
        )
    if isinstance(adapter, Reversal):
        patched.set_additional_models(KEY, [build_turned(model, adapter, shapes)])
        patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, turn)
    elif isinstance(adapter, Framer):
        adapter.check(shapes)
        set_weights(patched, adapter)
        patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, add_mask)
    elif adapter.tensors:
        adapter.check(shapes)
        if adapter.head_dim != head_dim(model):
            raise ValueError(
                f"{adapter.name} has attention heads of {adapter.head_dim} channels, this base of "
                f"{head_dim(model)}; load the checkpoint it was trained on"
            )
        control = ConditionEncoderControl(adapter, build_encoder(model, adapter))
        if (attention := build_attention(model, adapter)) is not None:
            patched.set_additional_models(KEY, [attention])
        patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, attend)

    def hold(executor, *args, **kwargs):
        guider = executor.class_obj
        if isinstance(adapter, Reversal):
            if not getattr(guider, "reverses", False):
                raise ValueError(
                    f"this MODEL carries {adapter.name}, which is for the method 'reversed' alone; choose it "
                    "in 'SVD VFI Sampler' or 'SVD VFI Guider'"
                )
        elif adapter.tensors:
            check_conditioning(guider.conds, adapter)
        if isinstance(adapter, Framer):
            guider.conds = show(guider.conds, adapter)  # the host's copies, for this sampling alone
        return hold_known_frames(executor, adapter, strength, (start, end), *args, **kwargs)

    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, hold)
    return patched, control


def check_conditioning(conds: dict[str, list[dict[str, Any]]], adapter: Weights) -> None:
    """Refuse what would leave out half of an adapter, or show it what it was not trained for."""
    if keyframes_of(conds) is None:
        raise ValueError(
            "this MODEL carries an adapter for in-betweening, but the conditioning has no keyframes; "
            "connect 'SVD VFI Conditioning' to the sampler"
        )
    if isinstance(adapter, Framer):
        return
    if not any(control.adapter is adapter for control in controls_of(conds)):
        raise ValueError(
            f"this MODEL carries the adapter {adapter.name}, but the conditioning was made without its "
            "condition encoder; connect the CONTROL_NET of the same 'SVD VFI Apply Adapter' to 'SVD VFI "
            "Conditioning'"
        )
    if adapter.options.uncond_hint == "dropped" and "middle" in conds:
        raise ValueError(
            f"the adapter {adapter.name} tells two branches of guidance apart, and this guider has three; "
            "use CFGGuider"
        )


def hold_known_frames(
    executor,
    adapter: Weights,
    strength: float,
    percents: tuple[float, float],
    noise: Tensor,
    latent_image: Tensor,
    sampler: Any,
    sigmas: Tensor,
    denoise_mask: Tensor | None = None,
    callback: Any = None,
    disable_pbar: bool = False,
    seed: int | None = None,
    **kwargs: Any,
) -> Tensor:
    """Around one whole sampling: the known frames enter clean, are noised as the others, and leave exact.

    A second stage gets the first one's latents, whose known frames still carry noise, and no noise of its
    own; the host's inpainting would take both for what is wanted (error 95 at a deviation of 4). The known
    frames go on with the noise they carry.
    """
    guider = executor.class_obj
    keyframes = keyframes_of(guider.conds)
    held = known_rows(denoise_mask, len(latent_image))
    check_agreement(keyframes, held, latent_image)
    if keyframes is None:  # nothing of ours in the conditioning: the host's own way
        return executor(
            noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed, **kwargs
        )
    finishes = float(sigmas[-1]) == 0  # asked now: uni_pc writes to the sigmas it is given
    known = keyframes.known.to(latent_image)
    mask = keyframes.mask.to(latent_image)
    if held:
        if not noise[held].any():
            again = noise_of(latent_image, known, float(sigmas[0]), held, seed)
            noise = blend_known(noise, again.to(noise), mask.to(noise))
        latent_image = blend_known(latent_image, known, mask)
    sampling = guider.model_patcher.get_model_object("model_sampling")
    span = tuple(float(sampling.percent_to_sigma(percent)) for percent in percents)
    shared = guider.model_options.setdefault("transformer_options", {})
    shared[KEY] = Run(guider, adapter, keyframes, strength, span)
    try:
        out = executor(
            noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed, **kwargs
        )
    finally:
        shared.pop(KEY, None)
        for control in controls_of(guider.conds):  # the host forgets it after an error
            control.cleanup()
    if held and finishes:
        out = blend_known(out, known.to(out), mask.to(out))
    return out


def with_keyframes(model_options: dict[str, Any], keyframes: Keyframes) -> dict[str, Any]:
    """Options for a call of the U-Net on a clip of these keyframes, not of those the sampling began with."""
    return with_run(model_options, keyframes=keyframes)


def with_run(model_options: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Options for a call of the U-Net with another `Run`."""
    shared = model_options.get("transformer_options", {})
    if (run := shared.get(KEY)) is None:
        return model_options
    return {**model_options, "transformer_options": {**shared, KEY: replace(run, **changes)}}


def noise_of(latent: Tensor, known: Tensor, sigma: float, held: list[int], seed: int | None) -> Tensor:
    """The noise [t, 4, h, w] that a first stage left in the known frames; the seed's where it left none."""
    left = (latent - known) * SCALE / sigma
    if left[held].std() > 0.5:  # of a whole one 1, of two encodings of one picture next to nothing
        return left
    return clip_noise(*(latent.shape[i] for i in (0, 2, 3)), seed or 0)


@torch.compiler.disable  # a compiled U-Net would run with the hooks, or without them, that it was traced with
def attend(
    executor,
    x: Tensor,
    timesteps: Tensor | None = None,
    context: Tensor | None = None,
    y: Tensor | None = None,
    control: Any = None,
    transformer_options: dict[str, Any] = {},  # noqa: B006 the host's own signature
    **kwargs: Any,
) -> Tensor:
    """Around one call of the U-Net: keyframe attention on the module that runs, gone when it returns."""
    run: Run | None = transformer_options.get(KEY)
    if run is None:
        return executor(x, timesteps, context, y, control, transformer_options, **kwargs)
    frames, b = check_whole(run.keyframes, x, transformer_options, kwargs)
    options = run.adapter.options
    if options.known_frames == "clean":
        x = torch.cat([with_clean_known(x[:, :4], run.keyframes), x[:, 4:]], dim=1)
    sites = run.sites(x.device)
    sigma = float(transformer_options["sigmas"].max())
    if sites is None or run.strength == 0 or not run.sigmas[1] <= sigma <= run.sigmas[0]:
        return executor(x, timesteps, context, y, control, transformer_options, **kwargs)
    shares = [run.strength * share for share in hinted(options, transformer_options["cond_or_uncond"])]
    plain = all(share == 1 for share in shares)
    keyframes = run.keyframes
    span = ClipSpan(
        frames,
        keyframes.first,
        keyframes.last,
        *x.shape[2:],
        rows=b,
        attention_strength=None if plain else torch.tensor(shares, device=x.device),
    )
    blocks, transposed = blocks_of(executor.class_obj, sites)
    with attending(sites, blocks, span, transposed):
        return executor(x, timesteps, context, y, control, transformer_options, **kwargs)


def keyframes_of(conds: dict[str, list[dict[str, Any]]]) -> Keyframes | None:
    """The keyframes that our conditioning node put beside the positive conditioning."""
    found = [cond[KEY] for branch in conds.values() for cond in branch if KEY in cond]
    return found[0] if found else None


def controls_of(conds: dict[str, list[dict[str, Any]]]) -> list[ConditionEncoderControl]:
    """The condition encoders in the conditioning, wherever in its chains of ControlNets."""
    found = []
    for cond in (cond for branch in conds.values() for cond in branch):
        control = cond.get("control")
        while control is not None:
            if isinstance(control, ConditionEncoderControl) and control not in found:
                found.append(control)
            control = control.previous_controlnet
    return found


def known_rows(denoise_mask: Tensor | None, frames: int) -> list[int]:
    """Indices of the frames that a denoise mask leaves alone."""
    if denoise_mask is None:
        return []
    per_frame = denoise_mask.reshape(denoise_mask.shape[0], -1).amax(dim=1).tolist()
    per_frame = [per_frame[i % len(per_frame)] for i in range(frames)]
    return [i for i, value in enumerate(per_frame) if value == 0]


def check_agreement(keyframes: Keyframes | None, held: list[int], latent: Tensor) -> None:
    """Refuse a latent and a conditioning that were not made from the same keyframes."""
    if keyframes is None:
        return
    if keyframes.length != len(latent) or keyframes.latents.shape[2:] != latent.shape[2:]:
        raise ValueError(
            f"the conditioning was made for {keyframes.length} frames of {pixels(keyframes.latents)}, the "
            f"latent holds {len(latent)} of {pixels(latent)}; take both from the same keyframes"
        )
    if held and held != list(keyframes.positions):
        raise ValueError(
            f"the latent holds frames {held}, the conditioning was made for {list(keyframes.positions)}; "
            "take both from the same keyframes"
        )
