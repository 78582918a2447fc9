"""What every schema of this pack shares: its types, its words, and two lines for older hosts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..vfi_core.sizes import working_size
from ..vfi_core.weights import Weights
from .host.checkpoint import conditions_of

CATEGORY = "video/svd frame interpolation"
WORDS = ["interpolate", "in-between", "inbetween", "tween", "keyframe", "vfi", "slow motion", "svd"]
SIZES = ["trained size", "picture size"]

AdapterType = io.Custom("SVDVFI_ADAPTER")
KeyframesType = io.Custom("SVDVFI_KEYFRAMES")
StatesType = io.Custom("INTERPOLATION_STATES")  # ComfyUI-Frame-Interpolation's name: its skip lists fit


def schema(**keywords: Any) -> io.Schema:
    """A schema of this pack, without the keywords an older host does not know (0.3.64: search_aliases)."""
    keywords = {"category": CATEGORY, "search_aliases": WORDS} | keywords
    known = {field.name for field in dataclasses.fields(io.Schema)}
    return io.Schema(**{name: value for name, value in keywords.items() if name in known})


def advanced(entry: io.Input) -> io.Input:
    """The input folded away under "advanced", where the host knows that (0.3.64's constructors do not)."""
    entry.extra_dict = {**(entry.extra_dict or {}), "advanced": True}
    return entry


def seed_input(tooltip: str) -> io.Input:
    return io.Int.Input(
        "seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True, tooltip=tooltip
    )


def picture_inputs() -> list[io.Input]:
    return [
        io.Image.Input("images", tooltip="The keyframes in order: a batch of two or more, or the first one."),
        io.Image.Input("last_image", optional=True, tooltip="The last keyframe, where it comes by itself."),
    ]


def loop_input() -> io.Input:
    return io.Boolean.Input("loop", default=False, tooltip="Go on from the last keyframe to the first one.")


def fps_input(name: str, tooltip: str) -> io.Input:
    return io.Float.Input(name, default=0.0, min=0.0, max=1000.0, step=0.01, tooltip=tooltip)


def strength_input(name: str, what: str) -> io.Input:
    return io.Float.Input(
        name, default=1.0, min=0.0, max=10.0, step=0.01, tooltip=f"How strongly {what}. 1 as trained, 0 off."
    )


def percent_inputs(what: str) -> list[io.Input]:
    """Where in the sampling something acts, as people know it from ControlNetApplyAdvanced."""
    return [
        advanced(
            io.Float.Input(
                name,
                default=default,
                min=0.0,
                max=1.0,
                step=0.001,
                tooltip=f"Where in the sampling {what} {verb}.",
            )
        )
        for name, default, verb in (
            ("start_percent", 0.0, "begins to act"),
            ("end_percent", 1.0, "stops acting"),
        )
    ]


def refresh_input(tooltip: str) -> io.Input:
    return advanced(io.Int.Input("encoder_refresh", default=1, min=1, max=100, tooltip=tooltip))


def colour_lock_input() -> io.Input:
    return io.Boolean.Input(
        "colour_lock", default=False, tooltip="Pull the colours of every frame onto the keyframes'."
    )


def timeline_inputs() -> list[io.Input]:
    """What a timeline may be told besides where its keyframes stand; all of it optional, for older graphs."""
    return [
        StatesType.Input(
            "interpolation_states",
            optional=True,
            tooltip="Gaps to skip, from 'SVD VFI Scene Cuts' or a skip list of another pack: there the frame "
            "before holds.",
        ),
        advanced(
            io.String.Input(
                "reseed",
                default="",
                optional=True,
                tooltip="Other seeds for single gaps, as 2: 77, 5: 12. All others stay as they are.",
            )
        ),
        advanced(
            io.Int.Input(
                "first_keyframe",
                default=0,
                min=0,
                max=2**31 - 1,
                optional=True,
                tooltip="Of a film made in parts: the number of the first picture here in the whole film. "
                "Above 0 it is the last one of the part before, and not shown again.",
            )
        ),
    ]


def clip_frames_input(tooltip: str) -> io.Input:
    return advanced(io.Int.Input("clip_frames", default=0, min=0, max=4096, optional=True, tooltip=tooltip))


def keyframe_indices_output() -> io.Output:
    return io.Int.Output(
        display_name="keyframe_indices", is_output_list=True, tooltip="Where in the film the keyframes are."
    )


def conditions(vae: Any, adapter: Weights | None) -> dict[str, Any]:
    """frames, fps, motion bucket ... the model was trained under, the adapter's before the base's: what
    inputs left at 0 fall back to.
    """
    return dict(conditions_of(vae)) | (dict(adapter.training) if adapter else {})


def rgb(images: Tensor) -> Tensor:
    """IMAGE [k, H, W, C] as [k, H, W, 3] float32 on the CPU: alpha is left out, grey repeated."""
    images = images.float().cpu()  # --fp16-intermediates, --gpu-only
    return images.expand(*images.shape[:3], 3) if images.shape[3] == 1 else images[..., :3]


def gather(images: Tensor, last_image: Tensor | None) -> Tensor:
    """The keyframes [n, H, W, 3]. Raises ValueError where there are fewer than two, or of two sizes."""
    images = rgb(images)
    if last_image is not None:
        last = rgb(last_image)
        if last.shape[1:3] != images.shape[1:3]:
            raise ValueError(
                f"the keyframes are {images.shape[2]}x{images.shape[1]} and {last.shape[2]}x{last.shape[1]}; "
                "give pictures of one size"
            )
        images = torch.cat([images, last])
    if len(images) < 2:
        raise ValueError("one keyframe given; connect a batch of at least two, or a last_image")
    return images


def model_size(images: Tensor, rule: str, training: Mapping[str, Any]) -> tuple[int, int]:
    """(H, W) the model works at: its trained short side, or the pictures' own; multiples of 64."""
    height, width = images.shape[1:3]
    return working_size(height, width, tuple(training["size"]) if rule == SIZES[0] else (height, width))
