"""How far a film is from the truth, how sharp it is, and whether it moves as the truth does.

Legend: t frames, H W pixels; pictures are RGB, float 0..1. DIS flow: Kroeger et al., "Fast Optical Flow using
Dense Inverse Search", 2016; OpenCV's preset `medium` on the 8-bit luma. No weights are involved.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def psnr(prediction: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each frame in dB, [t]: -10 log10 of the mean squared error, inf if equal.

    prediction, truth  [t, H, W, 3]
    """
    return -10 * torch.log10((prediction.double() - truth.double()).square().mean((1, 2, 3)))


def ssim(prediction: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity of each frame, [t] (Wang et al., 2004, eq. 13).

    An 11-tap Gaussian window of sigma 1.5, K1 .01, K2 .03, every channel by itself, windows inside the
    picture only. Equals scikit-image with gaussian_weights and without sample covariance.

    prediction, truth  [t, H, W, 3]
    Raises ValueError for pictures smaller than the window.
    """
    if min(prediction.shape[1:3]) < 11:
        raise ValueError(
            f"SSIM's window is 11 pixels wide, the pictures are {tuple(prediction.shape[1:3])}; enlarge them"
        )
    taps = torch.exp(-(torch.arange(-5.0, 6.0, dtype=torch.float64) ** 2) / (2 * 1.5**2)).to(
        prediction.device
    )
    taps = taps / taps.sum()

    def window(x: Tensor) -> Tensor:  # [t, 3, H, W] -> [t, 3, H - 10, W - 10]
        x = F.conv2d(x.flatten(0, 1)[:, None], taps[None, None, :, None])
        return F.conv2d(x, taps[None, None, None, :]).unflatten(0, (len(prediction), 3))[:, :, 0]

    x, y = (p.double().permute(0, 3, 1, 2) for p in (prediction, truth))
    mx, my = window(x), window(y)
    vx, vy, cov = window(x * x) - mx * mx, window(y * y) - my * my, window(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    index = (2 * mx * my + c1) * (2 * cov + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return index.mean((1, 2, 3))


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
    """What one method reached on one clip.

    psnr, ssim, sharpness  means over the generated frames; psnr_centre  the centre frame alone
    tof, flow, flow_truth  over all consecutive pairs, the given frames at both ends included, in pixels
    """

    psnr: float
    psnr_centre: float
    ssim: float
    tof: float
    sharpness: float
    flow: float
    flow_truth: float


def score(generated: Tensor, clip: Tensor, clip_flows: np.ndarray | None = None) -> Scores:
    """The scores of the generated frames between a clip's first and last frame.

    generated   [t - 2, H, W, 3]; brought to 8 bits first, as a film has them: clipped to 0..1, rounded
    clip        [t, H, W, 3]
    clip_flows  `flows(clip)` where the caller has it already
    Raises ValueError where the shapes disagree or a value is not finite.
    """
    truth = clip[1:-1]
    if generated.shape != truth.shape:
        raise ValueError(f"generated frames are {tuple(generated.shape)}, expected {tuple(truth.shape)}")
    if not torch.isfinite(generated).all():
        raise ValueError("the generated frames hold NaN or infinite values; look at the model that made them")
    generated = (generated.to(truth).clamp(0, 1) * 255).round() / 255
    of_truth = flows(clip) if clip_flows is None else clip_flows
    of_film = flows(torch.cat([clip[:1], generated, clip[-1:]]))
    frames = psnr(generated, truth)
    return Scores(
        psnr=float(frames.mean()),
        psnr_centre=float(frames[(len(frames) - 1) // 2]),
        ssim=float(ssim(generated, truth).mean()),
        tof=tof(of_film, of_truth),
        sharpness=sharpness_ratio(generated, truth),
        flow=flow_magnitude(of_film),
        flow_truth=flow_magnitude(of_truth),
    )


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
