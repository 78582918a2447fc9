"""How far a film is from the truth, how sharp it is, and whether it moves as the truth does.

Legend: t frames, H W pixels; pictures are RGB, float 0..1. DIS flow: Kroeger et al., "Fast Optical Flow using
Dense Inverse Search", 2016; OpenCV's preset `medium` on the 8-bit luma. No weights are involved.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

FrameMetric = Callable[[Tensor, Tensor], Tensor]
"""f(prediction [t, H, W, 3], truth [t, H, W, 3]) -> a number for each frame [t]."""


def psnr(prediction: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each frame in dB, [t]: -10 log10 of the mean squared error, inf if equal.

    prediction, truth  [t, H, W, 3]
    """
    return -10 * torch.log10((prediction.double() - truth.double()).square().mean((1, 2, 3)))


def ssim(prediction: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity of each frame, [t] (Wang et al., 2004, eq. 13), by scikit-image.

    An 11-tap Gaussian window of sigma 1.5, K1 .01, K2 .03, every channel by itself, windows inside the
    picture only, as in the paper.

    prediction, truth  [t, H, W, 3]
    Raises ValueError for pictures smaller than the window.
    """
    if min(prediction.shape[1:3]) < 11:
        raise ValueError(
            f"SSIM's window is 11 pixels wide, the pictures are {tuple(prediction.shape[1:3])}; enlarge them"
        )
    frames = zip(prediction.double().cpu().numpy(), truth.double().cpu().numpy(), strict=True)
    how: Any = dict(channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    values: Any = [structural_similarity(a, b, data_range=1.0, **how) for a, b in frames]
    return torch.tensor(values, dtype=torch.float64)


def luma(frame: Tensor) -> np.ndarray:
    """The 8-bit luma [H, W] (ITU-R BT.601) of a picture [H, W, 3]."""
    return cv2.cvtColor((frame.clamp(0, 1) * 255).round().byte().cpu().numpy(), cv2.COLOR_RGB2GRAY)


def dis_flow(a: Tensor, b: Tensor) -> np.ndarray:
    """Motion from picture a to picture b, [H, W, 2] in pixels (x, y): a(p) is found at b(p + flow).

    a, b  [H, W, 3]
    """
    # A fresh object a call: OpenCV keeps the pyramid scales it chose for the first picture's size.
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return dis.calc(luma(a), luma(b), None)  # type: ignore[call-overload]


def flows(film: Tensor) -> np.ndarray:
    """DIS flow between consecutive frames, [t - 1, H, W, 2], of a film [t, H, W, 3]."""
    return np.stack([dis_flow(a, b) for a, b in zip(film[:-1], film[1:], strict=True)])


def tof(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Mean length of the difference between two films' `flows`, in pixels (tOF, Chu et al., 2020)."""
    return float(np.linalg.norm(prediction - truth, axis=-1).mean())


def flow_magnitude(flow: np.ndarray) -> float:
    """Mean length of `flows`, in pixels."""
    return float(np.linalg.norm(flow, axis=-1).mean())


def sharpness(frame: Tensor) -> float:
    """Mean absolute Laplacian (4-neighbour) of the unrounded BT.601 luma 0..255 of a picture [H, W, 3]."""
    grey = frame.double().cpu().numpy() @ np.array([0.299, 0.587, 0.114]) * 255
    return float(np.abs(cv2.Laplacian(grey, cv2.CV_64F)).mean())


def sharpness_ratio(prediction: Tensor, truth: Tensor) -> float:
    """Mean over frames of sharpness(prediction) / sharpness(truth); 1 is ideal; flat to flat counts 1.

    prediction, truth  [t, H, W, 3]
    """
    flat = 1e-6  # keeps 0 / 0 at 1; a natural frame has 1 to 30
    pairs = zip(prediction, truth, strict=True)
    return float(np.mean([(sharpness(p) + flat) / (sharpness(q) + flat) for p, q in pairs]))


@dataclass(frozen=True)
class Scores:
    """What one method reached on one clip. None: not measured.

    psnr, ssim, lpips, flip, sharpness  means over the generated frames; ..._centre  the centre frame alone
    tof, flow, flow_truth  over all consecutive pairs, the given frames at both ends included, in pixels
    endpoint               how far the method's own first and last frame are from the given ones: mean
                           absolute difference, 0..1; None where it returns none
    """

    psnr: float
    psnr_centre: float
    ssim: float
    ssim_centre: float
    tof: float
    sharpness: float
    flow: float
    flow_truth: float
    endpoint: float | None = None
    lpips: float | None = None
    lpips_centre: float | None = None
    flip: float | None = None
    flip_centre: float | None = None


def score(
    film: Tensor,
    clip: Tensor,
    clip_flows: np.ndarray | None = None,
    lpips: FrameMetric | None = None,
    flip: FrameMetric | None = None,
) -> Scores:
    """The scores of a film against a clip whose first and last frame were given.

    film        [t, H, W, 3], or [t - 2, H, W, 3], the frames between; 8 bits, as `eight_bits` makes them
    clip        [t, H, W, 3]
    clip_flows  `flows(clip)` where the caller has it already
    lpips, flip measures of frames, where there are some
    Raises ValueError where the shapes disagree.
    """
    truth, whole = clip[1:-1], film.shape == clip.shape
    generated = film[1:-1] if whole else film
    if generated.shape != truth.shape:
        raise ValueError(f"the frames are {tuple(film.shape)}, expected {tuple(truth.shape)}")
    ends = torch.stack([film[0] - clip[0], film[-1] - clip[-1]]) if whole else None
    of_truth = flows(clip) if clip_flows is None else clip_flows
    of_film = flows(torch.cat([clip[:1], generated, clip[-1:]]))
    measures: dict[str, FrameMetric | None] = {"psnr": psnr, "ssim": ssim, "lpips": lpips, "flip": flip}
    frames: dict[str, float] = {}
    for name, measure in measures.items():
        if measure is not None:
            values = measure(generated, truth)
            frames |= {name: float(values.mean()), f"{name}_centre": float(values[(len(values) - 1) // 2])}
    return Scores(
        **frames,
        tof=tof(of_film, of_truth),
        sharpness=sharpness_ratio(generated, truth),
        flow=flow_magnitude(of_film),
        flow_truth=flow_magnitude(of_truth),
        endpoint=None if ends is None else float(ends.abs().mean()),
    )


def eight_bits(film: Tensor) -> Tensor:
    """Frames as a film has them: clipped to 0..1 and rounded to 8 bits; float32 on the CPU.

    Raises ValueError for values that are not finite.
    """
    if not torch.isfinite(film).all():
        raise ValueError("the frames hold NaN or infinite values; look at the model that made them")
    return (film.float().cpu().clamp(0, 1) * 255).round() / 255


FEWEST = 6
"""Clips that have an interval: of 5, all better, a sign test says p = 2 / 2**5 = 0.06."""


def paired_bootstrap(
    differences: list[float] | np.ndarray, seed: int = 0, n: int = 10_000
) -> tuple[float, float]:
    """The 95 % percentile interval of the mean of paired differences, clips drawn with replacement.

    Raises ValueError where there is no difference to draw from.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(
            f"the bootstrap needs a list of differences, one per clip, and got shape {values.shape}"
        )
    # inverted_cdf: no interpolation, which would make NaN of two infinite PSNRs.
    draws = np.random.default_rng(seed).integers(len(values), size=(n, len(values)))
    low, high = np.percentile(values[draws].mean(1), [2.5, 97.5], method="inverted_cdf")
    return float(low), float(high)
