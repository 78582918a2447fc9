"""Keyframe attention (paper, sec. 3.2, eq. 2): every frame attends to the first and the last known one.

Legend: b batch, t frames, s tokens of a frame (its h x w positions), c channels, n heads, d channels of a
head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .clipspan import ClipSpan


class KeyframeAttention(nn.Module):
    """z_i <- z_i + W^O Attention(W^Q LN(z_i); W^K [LN(z_1), LN(z_n)], W^V [LN(z_1), LN(z_n)]).

    join  `channel`: z_1 and z_n side by side in channels, s keys, the paper's literal text; `token`: 2 s keys
    pool  average the keyframes' tokens over pool x pool positions after the norm, before W^K and W^V
    W^O starts at zero: an untrained module returns its input.
    """

    def __init__(self, channels: int, head_dim: int, join: str, pool: int, operations: Any = nn) -> None:
        super().__init__()
        if channels % head_dim:
            raise ValueError(f"{channels} channels do not divide into heads of {head_dim}")
        self.heads, self.join, self.pool = channels // head_dim, join, pool
        joined = channels * 2 if join == "channel" else channels
        self.norm = operations.LayerNorm(channels)
        self.q = operations.Linear(channels, channels, bias=False)
        self.k = operations.Linear(joined, channels, bias=False)
        self.v = operations.Linear(joined, channels, bias=False)
        self.o = operations.Linear(channels, channels)

    @torch.no_grad()
    def start_from(self, norm1: nn.LayerNorm, to_q: nn.Linear, to_k: nn.Linear, to_v: nn.Linear) -> None:
        """Take the block's own self-attention as the start; each half of a joined matrix gets half of it."""
        self.norm.weight.copy_(norm1.weight)
        self.norm.bias.copy_(norm1.bias)
        self.q.weight.copy_(to_q.weight)
        for own, base in ((self.k, to_k), (self.v, to_v)):
            weight = base.weight
            own.weight.copy_(torch.cat([weight, weight], dim=1) / 2 if self.join == "channel" else weight)
        nn.init.zeros_(self.o.weight)
        nn.init.zeros_(self.o.bias)

    def forward(self, z: Tensor, span: ClipSpan) -> Tensor:
        """z [b, t, s, c] -> [b, t, s, c]. K and V are computed once per clip."""
        b, t, s, _ = z.shape
        normed = self.norm(z)
        # Not by a list of indices: that is a copy to the GPU, which no CUDA graph can record.
        ends = torch.stack([normed[:, span.first], normed[:, span.last]], dim=1)  # [b, 2, s, c]
        if self.pool > 1:
            height, width = span.positions_of(s)
            ends = rearrange(ends, "b k (h w) c -> (b k) c h w", h=height, w=width)
            ends = F.avg_pool2d(ends, self.pool, ceil_mode=True)
            ends = rearrange(ends, "(b k) c h w -> b k (h w) c", b=b)
        pattern = "b k s c -> b s (k c)" if self.join == "channel" else "b k s c -> b (k s) c"
        keys = rearrange(ends, pattern)
        q = rearrange(self.q(normed), "b t s (n d) -> b n (t s) d", n=self.heads)
        k = rearrange(self.k(keys), "b s (n d) -> b n s d", n=self.heads)
        v = rearrange(self.v(keys), "b s (n d) -> b n s d", n=self.heads)
        attended = F.scaled_dot_product_attention(q, k, v)
        out = self.o(rearrange(attended, "b n (t s) d -> b t s (n d)", t=t))
        if span.attention_strength is not None:
            out = out * span.attention_strength.to(out).view(-1, 1, 1, 1)
        return z + out


class Sites(nn.Module):
    """A module for each of many transformer blocks; parameters are named by the block's dotted path."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self._paths = tuple(modules)
        for path, module in modules.items():
            parent: nn.Module = self
            *names, leaf = path.split(".")
            for name in names:
                if name not in parent._modules:
                    parent.add_module(name, nn.Module())
                parent = parent.get_submodule(name)
            parent.add_module(leaf, module)

    def items(self) -> Iterator[tuple[str, nn.Module]]:
        """(dotted path, module) of every site."""
        return ((path, self.get_submodule(path)) for path in self._paths)


def attention_paths(shapes: Mapping[str, Any], encoder_only: bool = False) -> list[str]:
    """Dotted paths of every spatial and temporal transformer block among a U-Net's parameter names
    (diffusers').
    """
    suffix = ".attn1.to_q.weight"
    paths = [name.removesuffix(suffix) for name in shapes if name.endswith(suffix)]
    return [p for p in paths if not (encoder_only and p.startswith("up_blocks."))]


@contextmanager
def attending(
    sites: Sites, blocks: Mapping[str, nn.Module], span: ClipSpan, transposed: frozenset[str] = frozenset()
) -> Iterator[None]:
    """Keyframe attention at the beginning of each block, for the calls made inside the context.

    blocks      dotted path -> the host's transformer block, for every site
    transposed  paths of blocks that receive (b s) t c, as ComfyUI's temporal ones; others receive (b t) s c
    Gone on exit, also after an exception. A backward pass through checkpointed blocks must run inside.
    """
    handles = []
    try:
        for path, attention in sites.items():
            hook = _pre_hook(attention, span, path in transposed)
            handles.append(blocks[path].register_forward_pre_hook(hook, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _pre_hook(attention: nn.Module, span: ClipSpan, transposed: bool):
    def hook(_block: nn.Module, args: tuple, kwargs: dict[str, Any]):
        z, rest = args[0], args[1:]
        if transposed:
            tokens = span.tokens_of(z)
            out = attention(rearrange(z, "(b s) t c -> b t s c", s=tokens), span)
            return (rearrange(out, "b t s c -> (b s) t c"), *rest), kwargs
        out = attention(rearrange(z, "(b t) s c -> b t s c", t=span.frames), span)
        return (rearrange(out, "b t s c -> (b t) s c"), *rest), kwargs

    return hook
