"""Reversed motion: SVD drawing a clip from its end backwards, along the attention maps of the clip onwards.

"Generative Inbetweening" (Wang et al., ICLR 2025, arXiv 2408.15239) tunes the value and output matrices of
the temporal self-attention, in every block, and nothing else.

Legend: b rows of the batch x tokens of a frame, t frames, n heads, d channels of a head.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from einops import rearrange
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .attention import Sites
from .dialect import PREFIXES, rename, unet_table
from .files import weight_files

ORIGINAL = "svd.safetensors"  # Stability's checkpoint for 14 frames, which the public weights were tuned on
BLOCK = "temporal_transformer_blocks.0"
# The tuned parameters inside a block, and what `deltas` calls them.
TUNED = {
    ".attn1.to_v.weight": ".value.weight",
    ".attn1.to_out.0.weight": ".output.weight",
    ".attn1.to_out.0.bias": ".output.bias",
}
# A matrix the tuning cannot have touched, as the maps it makes are never used: it tells which base was tuned.
WITNESS = f"mid_block.attentions.0.{BLOCK}.attn1.to_q.weight"
SAME = 0.005  # relative distance of a witness; rounding to bfloat16 makes 0.002

Maps = dict[int, dict[str, Tensor]]  # branch of guidance -> path of a block -> attention [b, n, t, t]


@dataclass(frozen=True)
class Reversal:
    """Tuned weights, apart from any base, in diffusers' names.

    tuned     `TUNED` of every temporal block, and `WITNESS`
    original  the same of the model they were tuned on; empty where its file is not at hand
    """

    notice: ClassVar[str] = (
        "Generative Inbetweening's weights (Wang et al., ICLR 2025, arXiv 2408.15239; code Apache-2.0) are "
        "tuned from Stability AI's SVD, whose community licence holds for them"
    )

    tuned: Mapping[str, Tensor]
    original: Mapping[str, Tensor]
    training: Mapping[str, Any] = field(default_factory=dict)
    name: str = "reversal"

    def deltas(self, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What is added to a base's matrices, float32 on the CPU, by `Sites`' names: tuned - original.

        base  its own weights by the names of ``tuned``

        The paper adds the difference from SVD (14 frames) onto SVD-XT. Where the original is not at hand the
        base must be it: the tuned weights minus another base's would undo what that one has learned since.
        Raises ValueError for a base of other shapes, of another origin, or one that these weights are.
        """
        for name, tensor in self.tuned.items():
            if name not in base or base[name].shape != tensor.shape:
                has = list(base[name].shape) if name in base else "no such matrix"
                raise ValueError(
                    f"{self.name} was tuned on another base model: {name} is {list(tensor.shape)}, this base "
                    f"has {has}; load Stable Video Diffusion, svd or svd_xt"
                )
        if not self.original and (apart := distance(self.tuned, base)) > SAME:
            raise ValueError(
                f"{self.name} was tuned on another model than this one ({apart:.1%} apart), for which the "
                f"difference is needed: put the original, {ORIGINAL} (14 frames), into the same folder, or "
                "take it as the model"
            )
        origin = self.original or base
        changes = {name: t.float().cpu() - origin[name].float().cpu() for name, t in self.tuned.items()}
        del changes[WITNESS]
        if not any(change.any() for change in changes.values()):
            raise ValueError(f"{self.name} is the base's own U-Net: nothing in it was tuned to turn motion")
        return {site_name(name): change for name, change in changes.items()}


def distance(tuned: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """How far two models' witnesses are apart, relative to the first."""
    a, b = (weights[WITNESS].float().cpu() for weights in (tuned, other))
    return float((a - b).norm() / a.norm())


def site_name(name: str) -> str:
    suffix = next(suffix for suffix in TUNED if name.endswith(suffix))
    return name.removesuffix(suffix) + TUNED[suffix]


def is_reversal(names: Collection[str]) -> bool:
    """Whether a file of these tensors is a whole SVD U-Net in diffusers' names, as the public weights are.

    A base's own U-Net looks the same; `Reversal.deltas` tells it by its values.
    """
    wanted = {WITNESS, "conv_in.weight", WITNESS.replace("to_q", "to_v")}
    return wanted <= set(names) and "mask_token" not in names


def load_reversal(path: Path) -> Reversal:
    """The used weights from a .safetensors file, or a diffusers folder, and the original's beside it, if any.

    Of gigabytes only the used tensors are read. Raises ValueError for a damaged file, or an original that is
    not what was tuned.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    tuned: dict[str, Tensor] = {}
    for file in weight_files(path):
        tuned |= read(file, None)
    original = folder / ORIGINAL
    if not original.is_file():
        return Reversal(tuned, {}, name=path.name)
    reversal = Reversal(tuned, read(original, list(tuned)), name=path.name)
    if (apart := distance(tuned, reversal.original)) > SAME:
        raise ValueError(
            f"{original} is not the model that {path.name} was tuned on ({apart:.1%} apart); put Stability's "
            "checkpoint for 14 frames there"
        )
    return reversal


def read(file: Path, names: Sequence[str] | None) -> dict[str, Tensor]:
    """The used tensors of a U-Net in diffusers' names; or ``names`` of a single-file checkpoint's."""
    try:
        with safe_open(file, "pt") as opened:
            keys = list(opened.keys())
            if names is None:
                used = (k for k in keys if k == WITNESS or (f".{BLOCK}." in k and k.endswith(tuple(TUNED))))
                places = {name: name for name in used}
            else:
                layers = sum(n.startswith("down_blocks.0.") and n.endswith("to_v.weight") for n in names)
                table = unet_table(layers)
                places = {name: PREFIXES["unet"] + rename(name, table) for name in names}
            if missing := sorted(set(places.values()) - set(keys)):
                raise ValueError(f"{file} lacks {missing[0]}; it is no Stable Video Diffusion checkpoint")
            tensors = {name: opened.get_tensor(place) for name, place in places.items()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} cannot be read ({error}); download it again") from error
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{file} holds values that are not finite in {name}; download it again")
    return tensors


class TurnedAttention(nn.Module):
    """The changes of one block's value and output matrices; added to whatever the host's own give out."""

    def __init__(self, channels: int, inner: int, operations: Any = nn) -> None:
        super().__init__()
        self.value = operations.Linear(channels, inner, bias=False)
        self.output = operations.Linear(inner, channels)


def turned_sites(deltas: Mapping[str, Tensor], operations: Any = nn) -> Sites:
    """A `TurnedAttention` for every block in ``deltas``, its weights to be loaded from there."""
    end = ".value.weight"
    shapes = {name.removesuffix(end): t.shape for name, t in deltas.items() if name.endswith(end)}
    return Sites({path: TurnedAttention(shape[1], shape[0], operations) for path, shape in shapes.items()})


def attention_map(q: Tensor, k: Tensor, heads: int) -> Tensor:
    """softmax(Q K^T / sqrt(d)), [b, n, t, t]; q and k [b, t, (n d)]."""
    q, k = (rearrange(x, "b t (n d) -> b n t d", n=heads) for x in (q, k))
    return ((q * q.shape[-1] ** -0.5) @ k.mT).softmax(-1)


def rotated(maps: Tensor) -> Tensor:
    """Maps [..., t, t] turned by 180 degrees: as frame i looked at j, so does t-1-i at t-1-j."""
    return maps.flip(-2, -1)


@contextmanager
def keeping(blocks: Mapping[str, nn.Module], maps: Maps, branches: Sequence[int]) -> Iterator[None]:
    """Keep the temporal self-attention's maps of the calls inside the context; their output is untouched.

    blocks    dotted path -> the host's temporal block, whose ``attn1`` gets (b s) t c in either host
    maps      written to, for `reversing`
    branches  names of the batch's rows in their order: forwards and backwards may come in different batches

    Kept are t^2 numbers of every block, row, token and head, until they are used: at 1024x576 and 25 frames
    with guidance 1.0 GB in half precision (queries and keys would be five times that).
    """

    def keep(path: str, found: Tensor) -> None:
        for branch, own in zip(branches, found.chunk(len(branches)), strict=True):
            maps.setdefault(branch, {})[path] = own

    handles: list[RemovableHandle] = []
    try:
        for path, block in blocks.items():
            handles += _kept(block.attn1, lambda found, path=path: keep(path, found))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def reversing(
    sites: Sites, blocks: Mapping[str, nn.Module], maps: Maps, branches: Sequence[int]
) -> Iterator[None]:
    """The calls inside the context draw the clip backwards: kept maps, rotated, and the tuned matrices.

    Arguments as for `keeping`, which must have kept the same branches; each map is let go once it is used.
    Gone on exit, also after an exception.
    """
    handles: list[RemovableHandle] = []
    try:
        for path, site in sites.items():

            def onwards(path: str = path) -> Tensor:
                return torch.cat([maps[branch].pop(path) for branch in branches])

            handles += _reversed(blocks[path].attn1, site, onwards)
        yield
    finally:
        for handle in handles:
            handle.remove()


def _kept(attn1: Any, keep: Any) -> list[RemovableHandle]:
    seen: dict[str, Tensor] = {}

    def projected(name: str):
        return lambda _module, _args, out: seen.update({name: out})

    def before_output(_module: nn.Module, _args: tuple) -> None:
        keep(attention_map(seen.pop("q"), seen.pop("k"), attn1.heads))

    return [
        attn1.to_q.register_forward_hook(projected("q")),
        attn1.to_k.register_forward_hook(projected("k")),
        attn1.to_out[0].register_forward_pre_hook(before_output),
    ]


def _reversed(attn1: Any, site: Any, onwards: Any) -> list[RemovableHandle]:
    seen: dict[str, Tensor] = {}

    def value(_module: nn.Module, args: tuple, out: Tensor) -> None:
        seen["v"] = out + site.value(args[0])

    def before_output(_module: nn.Module, _args: tuple) -> tuple[Tensor]:
        v = rearrange(seen.pop("v"), "b t (n d) -> b n t d", n=attn1.heads)
        attended = rotated(onwards()).to(v) @ v  # in place of what the host's attention made of its own maps
        return (rearrange(attended, "b n t d -> b t (n d)"),)

    def output(_module: nn.Module, args: tuple, out: Tensor) -> Tensor:
        return out + site.output(args[0])

    return [
        attn1.to_v.register_forward_hook(value),
        attn1.to_out[0].register_forward_pre_hook(before_output),
        attn1.to_out[0].register_forward_hook(output),
    ]
