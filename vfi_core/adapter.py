"""The adapter file: one load, one save, every option and every shape checked.

safetensors, names in diffusers' dialect: `encoder.stem.*`, `encoder.out.<i>.*`, `encoder.trunk.*` or
`encoder.lora.<path>.lora_{A,B}.weight`, `attention.<unet|encoder>.<path>.<norm|q|k|v|o>.*`. Metadata:
`format` and one JSON under `svd_vfi_adapter` with the options and what the adapter was trained on.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from .attention import attention_paths
from .encoder import HINT_CHANNELS, residual_channels, trunk_names
from .files import read_safetensors, write_safetensors
from .kinds import kind, refuse_other_formats

FORMAT = "svd-vfi-adapter/1"


@dataclass(frozen=True)
class Options:
    """How the paper's open points are read; recorded in the file and obeyed by whoever loads it.

    Defaults are the preset `paper`. Raises ValueError for a value that is not among the ones listed here.
    """

    encoder_input: Literal["noisy", "keyframes"] = "noisy"
    encoder_weights: Literal["full", "lora"] = "full"
    concat_latent: Literal["first", "nearest", "keyframes"] = "first"
    kf_join: Literal["channel", "token"] = "channel"
    kf_pool: Literal[1, 2, 4] = 1
    kf_where: Literal["unet", "encoder", "both"] = "unet"
    clip_tokens: Literal["first", "mean"] = "first"
    uncond_hint: Literal["kept", "dropped"] = "kept"
    loss: Literal["v", "eps"] = "v"
    loss_frames: Literal["all", "generated"] = "all"
    known_frames: Literal["renoised", "clean"] = "renoised"
    rank: int = 16
    alpha: float = 16.0

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"option {name} is {value!r}; use one of {', '.join(map(str, allowed))}")
        if type(self.rank) is not int or self.rank < 1:
            raise ValueError(f"option rank is {self.rank!r}; use a whole number of at least 1")
        if not isinstance(self.alpha, (int, float)) or not self.alpha > 0:
            raise ValueError(f"option alpha is {self.alpha!r}; use a number above 0")

    @property
    def attends(self) -> tuple[str, ...]:
        """Where keyframe attention sits: `unet`, `encoder`, or both."""
        return ("unet", "encoder") if self.kf_where == "both" else (self.kf_where,)


CHOICES: dict[str, tuple[Any, ...]] = {
    "encoder_input": ("noisy", "keyframes"),
    "encoder_weights": ("full", "lora"),
    "concat_latent": ("first", "nearest", "keyframes"),
    "kf_join": ("channel", "token"),
    "kf_pool": (1, 2, 4),
    "kf_where": ("unet", "encoder", "both"),
    "clip_tokens": ("first", "mean"),
    "uncond_hint": ("kept", "dropped"),
    "loss": ("v", "eps"),
    "loss_frames": ("all", "generated"),
    "known_frames": ("renoised", "clean"),
}

PRESETS = {
    "paper": Options(),
    "fast": Options(
        encoder_input="keyframes",
        encoder_weights="lora",
        concat_latent="nearest",
        kf_join="token",
        kf_pool=2,
        kf_where="both",
        clip_tokens="mean",
        loss_frames="generated",
    ),
}


@dataclass(frozen=True)
class Adapter:
    """A trained adapter, apart from any base.

    tensors   by the names above
    training  frames, size [H, W], fps, motion_bucket_id, augmentation, guidance [low, high], steps ...
    head_dim  channels of an attention head; parameters' shapes do not say it
    notice    what whoever uses it has to know of its origin and licence
    """

    notice: ClassVar[str] = ""

    options: Options
    tensors: Mapping[str, Tensor]
    head_dim: int
    training: Mapping[str, Any] = field(default_factory=dict)
    name: str = "adapter"

    def check(self, base: Mapping[str, Sequence[int]]) -> None:
        """Refuse a base U-Net (diffusers' parameter names -> shapes) this adapter was not made for.

        Raises ValueError naming the first tensor that is missing, left over or of another shape.
        """
        expected = expected_shapes(self.options, base, self.tensors)
        for key, shape in expected.items():
            if key not in self.tensors:
                raise ValueError(f"{self.name} lacks {key}; it is damaged or was made for another base model")
            if tuple(self.tensors[key].shape) != tuple(shape):
                raise ValueError(
                    f"{self.name} was made for another base model: {key} is {list(self.tensors[key].shape)}, "
                    f"this base needs {list(shape)}; load the checkpoint it was trained on"
                )
        if surplus := sorted(set(self.tensors) - set(expected)):
            raise ValueError(f"{self.name} holds {surplus[0]}, which has no place in this base model")


def expected_shapes(
    options: Options, base: Mapping[str, Sequence[int]], tensors: Mapping[str, Any] = {}
) -> dict[str, tuple[int, ...]]:
    """Every tensor of an adapter for a base and its shape. LoRA pairs: those in ``tensors``."""
    shapes: dict[str, tuple[int, ...]] = {}
    channels = residual_channels(base)
    shapes["encoder.stem.weight"] = (channels[0], HINT_CHANNELS, 3, 3)
    shapes["encoder.stem.bias"] = (channels[0],)
    for i, c in enumerate(channels):
        shapes[f"encoder.out.{i}.weight"], shapes[f"encoder.out.{i}.bias"] = (c, c, 1, 1), (c,)
    trunk = trunk_names(base)
    if options.encoder_weights == "full":
        shapes |= {f"encoder.trunk.{n}": tuple(base[n]) for n in trunk}
    else:
        known = {n.removesuffix(".weight") for n in trunk if n.endswith(".weight") and len(base[n]) >= 2}
        for path in lora_paths(tensors):
            if path not in known:
                raise ValueError(
                    f"the adapter was made for another base model: its LoRA changes {path}, which this base "
                    "does not have; load the checkpoint it was trained on"
                )
            out, into, *kernel = base[f"{path}.weight"]
            shapes[f"encoder.lora.{path}.lora_A.weight"] = (options.rank, into, *kernel)
            shapes[f"encoder.lora.{path}.lora_B.weight"] = (out, options.rank, *(1 for _ in kernel))
    for where in options.attends:
        for path in attention_paths(base, encoder_only=where == "encoder"):
            width = base[f"{path}.attn1.to_q.weight"][1]
            joined = width * 2 if options.kf_join == "channel" else width
            site = f"attention.{where}.{path}"
            shapes |= {
                f"{site}.norm.weight": (width,),
                f"{site}.norm.bias": (width,),
                f"{site}.q.weight": (width, width),
            }
            shapes |= {f"{site}.k.weight": (width, joined), f"{site}.v.weight": (width, joined)}
            shapes |= {f"{site}.o.weight": (width, width), f"{site}.o.bias": (width,)}
    return shapes


def lora_paths(tensors: Mapping[str, Any]) -> list[str]:
    """Dotted paths of the modules an adapter's LoRA changes, sorted."""
    prefix, suffix = "encoder.lora.", ".lora_A.weight"
    return sorted(
        n[len(prefix) : -len(suffix)] for n in tensors if n.startswith(prefix) and n.endswith(suffix)
    )


@torch.no_grad()
def merged_weight(weight: Tensor, a: Tensor, b: Tensor, options: Options) -> Tensor:
    """W + (alpha / rank) B A for a linear layer or a convolution: float32, then cast to W's dtype."""
    change = b.float().flatten(1) @ a.float().flatten(1)  # [out, rank] @ [rank, in * kernel]
    merged = weight.float() + options.alpha / options.rank * change.view(weight.shape).to(weight.device)
    return merged.to(weight.dtype)


def check_conditions(training: Mapping[str, Any]) -> None:
    """Refuse conditions of training that a host could not fall back to; entries it does not read are free.

    Raises ValueError naming the first: frames 3 or more, fps above 0, size [H, W] in multiples of 64,
    guidance [low, high], motion_bucket_id and augmentation numbers of 0 or more.
    """

    def number(value: Any, least: float) -> bool:
        return type(value) in (int, float) and least <= value < float("inf")

    def pair(value: Any, least: float) -> bool:
        return isinstance(value, (list, tuple)) and len(value) == 2 and all(number(v, least) for v in value)

    sound = {
        "frames": lambda v: type(v) is int and v >= 3,
        "fps": lambda v: number(v, 0) and v > 0,
        "size": lambda v: pair(v, 64) and not any(side % 64 for side in v),
        "guidance": lambda v: pair(v, 0),
        "motion_bucket_id": lambda v: number(v, 0),
        "augmentation": lambda v: number(v, 0),
    }
    for name, holds in sound.items():
        if name in training and not holds(training[name]):
            raise ValueError(f"{name} is {training[name]!r}, which no model can be run with")


def save_adapter(adapter: Adapter, path: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write the adapter, whole or not at all. Raises ValueError where that cannot be done."""
    meta = {
        "options": dataclasses.asdict(adapter.options),
        "head_dim": adapter.head_dim,
        "training": dict(adapter.training),
    }
    tensors = {k: v.detach().to("cpu", dtype) for k, v in adapter.tensors.items()}
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name} does not fit {dtype}; save the adapter in torch.float32 or bfloat16")
    write_safetensors(path, tensors, {"format": FORMAT, "svd_vfi_adapter": json.dumps(meta)})


def is_adapter(metadata: Mapping[str, str]) -> bool:
    """Whether a file of this metadata is an adapter that `load_adapter` reads."""
    return metadata.get("format") == FORMAT


def load_adapter(path: Path) -> Adapter:
    """Read an adapter file; shapes are checked by `Adapter.check` against the base it is put on.

    Raises ValueError in one sentence for a missing file, a file of another kind, or one that is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no adapter at {path}; give a .safetensors file or the name of a bundled adapter")
    refuse_other_formats(path)

    def check(names: Collection[str], metadata: Mapping[str, str]) -> None:
        if not is_adapter(metadata):
            raise ValueError(
                f"{path} is {kind(names, metadata)}, not an adapter; give a file of format {FORMAT}"
            )

    tensors, metadata = read_safetensors(path, check)
    try:
        meta = json.loads(metadata["svd_vfi_adapter"])
        known = {f.name for f in dataclasses.fields(Options)}
        if unknown := sorted(set(meta["options"]) - known):
            raise ValueError(f"unknown option '{unknown[0]}': it needs a newer version of this pack")
        check_conditions(meta["training"])
        return Adapter(
            Options(**meta["options"]), tensors, int(meta["head_dim"]), meta["training"], path.name
        )
    except (KeyError, TypeError, json.JSONDecodeError, ValueError) as error:
        raise ValueError(f"{path} has adapter metadata that cannot be used ({error})") from error
