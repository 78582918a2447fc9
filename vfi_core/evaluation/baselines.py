"""Methods without weights that any model has to beat, and the contract all methods share.

Legend: n generated frames, H W pixels; pictures are RGB, float 0..1.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import cv2
import numpy as np
import torch
from av import VideoFormat, VideoFrame
from av.filter import Graph, filters_available
from torch import Tensor

from .metrics import dis_flow

Interpolator = Callable[[Tensor, Tensor, int], Tensor]
"""f(first [H, W, 3], last [H, W, 3], in_betweens) -> the frames between them [in_betweens, H, W, 3], or,
where the method has frames of its own at both ends, the whole film [in_betweens + 2, H, W, 3]."""


def times(in_betweens: int) -> list[float]:
    """Where the generated frames stand between 0, the first frame, and 1, the last one."""
    return [i / (in_betweens + 1) for i in range(1, in_betweens + 1)]


def nearest(first: Tensor, last: Tensor, in_betweens: int) -> Tensor:
    """Copies of the nearer frame, [n, H, W, 3]; the centre frame is a copy of the first."""
    return torch.stack([first if t <= 0.5 else last for t in times(in_betweens)])


def linear(first: Tensor, last: Tensor, in_betweens: int) -> Tensor:
    """The linear cross-fade (1 - t) first + t last, [n, H, W, 3]."""
    return torch.stack([(1 - t) * first + t * last for t in times(in_betweens)])


def dis_flow_warp(first: Tensor, last: Tensor, in_betweens: int) -> Tensor:
    """Both frames warped along DIS flow and cross-faded, [n, H, W, 3].

    The flow from time t is mixed from the two directions (Super SloMo, Jiang et al., 2018, eq. 4):
        F_t0 = -(1 - t) t F_01 + t^2 F_10,   F_t1 = (1 - t)^2 F_01 - t (1 - t) F_10
    """
    forth, back = dis_flow(first, last), dis_flow(last, first)
    a, b = (x.float().cpu().numpy() for x in (first, last))
    frames = []
    for t in times(in_betweens):
        to_first = -(1 - t) * t * forth + t * t * back
        to_last = (1 - t) ** 2 * forth - t * (1 - t) * back
        frames.append((1 - t) * _sample(a, to_first) + t * _sample(b, to_last))
    return torch.from_numpy(np.stack(frames)).to(first)


def has_minterpolate() -> bool:
    """Whether the ffmpeg inside PyAV was built with the filter."""
    return "minterpolate" in filters_available


def minterpolate(first: Tensor, last: Tensor, in_betweens: int) -> Tensor:
    """ffmpeg's motion-compensated interpolation, the whole film [n + 2, H, W, 3].

    Its best quality: overlapped blocks of adaptive size and weight, motion searched in both directions.
    Raises ValueError where PyAV's ffmpeg has no such filter, or the frames are smaller than it takes.
    """
    if not has_minterpolate():
        raise ValueError("the ffmpeg inside PyAV has no minterpolate; leave that method out")
    given = [(x.clamp(0, 1) * 255).round().byte().cpu().numpy() for x in (first, last)]
    height, width = given[0].shape[:2]
    if min(height, width) < 32:
        raise ValueError(f"minterpolate takes 32 pixels or more a side, not {width}x{height}; leave it out")
    # One given frame a second. Full chroma: with 4:2:0 even the ends lose colour. No search for scene cuts: a
    # wide motion would count as one, and be copied.
    best = f"fps={in_betweens + 1}:mi_mode=mci:mc_mode=aobmc:me_mode=bidir:vsbmc=1:scd=none"
    graph = Graph()
    source = graph.add_buffer(width=width, height=height, format=VideoFormat("rgb24"), time_base=Fraction(1))
    nodes = [graph.add("format", "pix_fmts=yuv444p"), graph.add("minterpolate", best)]
    nodes += [graph.add("format", "pix_fmts=rgb24"), graph.add("buffersink")]
    graph.link_nodes(source, *nodes).configure()
    # The filter looks ahead: the last frame three times, or what is before it would not come out.
    for second, frame in enumerate([*given, given[1], given[1]]):
        picture = VideoFrame.from_ndarray(frame, format="rgb24")
        picture.pts, picture.time_base = second, Fraction(1)
        graph.vpush(picture)
    graph.vpush(None)
    film = [graph.vpull().to_ndarray(format="rgb24") for _ in range(in_betweens + 2)]
    return torch.from_numpy(np.stack(film)).to(first) / 255


def _sample(picture: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """The picture [H, W, 3] read at p + flow(p), bilinear, mirrored at the border."""
    y, x = np.mgrid[: flow.shape[0], : flow.shape[1]].astype(np.float32)
    return cv2.remap(
        picture, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )


BASELINES: dict[str, tuple[str, Interpolator]] = {
    "nearest": ("nearest", nearest),
    "linear": ("linear", linear),
    "dis": ("DIS flow warp", dis_flow_warp),
    "minterpolate": ("ffmpeg minterpolate", minterpolate),
}
"""Name on the command line -> (name in tables, method)."""
