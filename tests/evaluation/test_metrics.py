"""Metrics by their laws, and against independent implementations on the same frames."""

from __future__ import annotations

import pytest

pytest.importorskip("cv2", reason="needs the extra 'eval'")
pytest.importorskip("torchmetrics", reason="needs the extra 'eval'")

import cv2
import numpy as np
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from vfi_core.evaluation import metrics


def texture(seed: int, *shape: int) -> torch.Tensor:
    """Smooth noise [H, W, 3] in 0..1 on 8-bit values: something for flow to hold on to."""
    noise = torch.rand((1, 3, shape[0] // 4, shape[1] // 4), generator=torch.Generator().manual_seed(seed))
    picture = torch.nn.functional.interpolate(noise, shape, mode="bicubic").clamp(0, 1)[0].permute(1, 2, 0)
    return (picture * 255).round() / 255


def shifted(t: int, step: int, size: int = 64) -> torch.Tensor:
    """A film [t, size, size, 3] that moves ``step`` pixels to the right a frame."""
    wide = texture(0, size, size + 4 * ((t * abs(step) + 3) // 4))
    start = (t - 1) * step
    return torch.stack([wide[:, start - i * step : start - i * step + size] for i in range(t)])


def test_equal_films_are_perfect():
    film = shifted(5, 2)
    scores = metrics.score(film[1:-1], film)
    assert scores.psnr == scores.psnr_centre == float("inf")
    assert scores.ssim == scores.ssim_centre == pytest.approx(1, abs=1e-12)
    assert scores.endpoint is scores.lpips is scores.flip is None
    assert scores.tof == 0
    assert scores.sharpness == 1
    assert scores.flow == scores.flow_truth


def test_psnr_is_twenty_decibels_for_an_error_of_a_tenth():
    zeros = torch.zeros(2, 16, 16, 3)
    assert metrics.psnr(zeros + 0.1, zeros).tolist() == pytest.approx([20, 20])


def test_the_centre_frame_has_a_score_of_its_own():
    clip = shifted(5, 0)
    generated = clip[1:-1].clone()
    generated[1] = 1 - generated[1]
    scores = metrics.score(generated, clip)
    assert scores.psnr_centre < 20 and scores.psnr == float("inf")
    assert scores.ssim_centre < scores.ssim < 1


def test_a_film_with_ends_of_its_own_is_told_how_far_they_are_from_the_given_frames():
    clip = shifted(5, 2)
    moved = clip.clone()
    moved[0] = (moved[0] + 0.1).clamp(0, 1)
    scores = metrics.score(moved, clip)
    assert scores.endpoint == pytest.approx(float((moved[0] - clip[0]).mean()) / 2)
    assert scores.psnr == float("inf")
    assert metrics.score(clip, clip).endpoint == 0


def test_tof_agrees_with_its_definition_written_out_in_opencv():
    a, b = shifted(4, 2), shifted(4, 3)
    lengths = []
    for x0, x1, y0, y1 in zip(a[:-1], a[1:], b[:-1], b[1:], strict=True):
        of = []
        for first, second in ((x0, x1), (y0, y1)):
            grey = [
                cv2.cvtColor(np.uint8(f.numpy() * 255 + 0.5), cv2.COLOR_RGB2GRAY) for f in (first, second)
            ]
            of.append(cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(*grey, None))
        lengths.append(np.sqrt(((of[0] - of[1]) ** 2).sum(-1)).mean())
    film = torch.cat([b[:1], a[1:-1], b[-1:]])  # the given frames are the truth's
    assert metrics.tof(metrics.flows(a), metrics.flows(b)) == pytest.approx(float(np.mean(lengths)), abs=1e-5)
    assert metrics.score(film, b).tof > 0


def test_psnr_and_ssim_agree_with_torchmetrics():
    a, b = texture(1, 40, 56), texture(2, 40, 56)
    b = 0.6 * a + 0.4 * b
    x, y = (p.permute(2, 0, 1)[None] for p in (a, b))
    _, whole = structural_similarity_index_measure(x, y, data_range=1.0, sigma=1.5, return_full_image=True)
    expected = float(whole[..., 5:-5, 5:-5].mean())  # theirs mirrors the picture at its border
    assert 0.1 < expected < 0.9
    assert float(metrics.ssim(a[None], b[None])[0]) == pytest.approx(expected, abs=1e-4)
    noise = float(peak_signal_noise_ratio(x, y, data_range=1.0))
    assert float(metrics.psnr(a[None], b[None])[0]) == pytest.approx(noise, abs=1e-4)


def test_ssim_agrees_with_the_formula_written_out_window_by_window():
    a, b = (texture(seed, 12, 12).double() for seed in (1, 2))
    taps = torch.exp(-(torch.arange(-5.0, 6.0).double() ** 2) / (2 * 1.5**2))
    window = (taps[:, None] * taps) / taps.sum() ** 2
    values = []
    for i, j, c in ((i, j, c) for i in (0, 1) for j in (0, 1) for c in range(3)):
        x, y = (p[i : i + 11, j : j + 11, c] for p in (a, b))
        mx, my = ((window * p).sum() for p in (x, y))
        vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
        cov = (window * (x - mx) * (y - my)).sum()
        c1, c2 = 0.01**2, 0.03**2
        values.append((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    expected = float(torch.stack(values).mean())
    assert float(metrics.ssim(a[None], b[None])[0]) == pytest.approx(expected, abs=1e-6)


def test_ssim_refuses_pictures_smaller_than_its_window():
    with pytest.raises(ValueError, match="11 pixels wide"):
        metrics.ssim(torch.zeros(1, 8, 8, 3), torch.zeros(1, 8, 8, 3))


def test_flow_of_a_pan_is_its_speed():
    flow = metrics.flows(shifted(3, 2))
    assert flow.shape == (2, 64, 64, 2)
    # DIS on 64 x 64 pixels: 2.00 measured in the middle, worse at the border
    assert np.median(flow[..., 0]) == pytest.approx(2, abs=0.1)
    assert np.median(flow[..., 1]) == pytest.approx(0, abs=0.1)


def test_a_film_at_rest_has_no_flow_and_the_truth_s_flow_as_its_error():
    film = shifted(4, 2)
    scores = metrics.score(film[:1].expand(2, -1, -1, -1), torch.cat([film[:3], film[:1]]))
    assert scores.flow == 0
    assert scores.tof == pytest.approx(scores.flow_truth)


def test_blur_lowers_sharpness_and_contrast_scales_it():
    sharp = texture(3, 32, 32)[None]
    blurred = torch.nn.functional.avg_pool2d(sharp.permute(0, 3, 1, 2), 3, 1).permute(0, 2, 3, 1)
    assert metrics.sharpness_ratio(blurred, sharp[:, 1:-1, 1:-1]) < 0.8
    assert metrics.sharpness_ratio(sharp / 2, sharp) == pytest.approx(0.5, abs=1e-6)


def test_flat_frames_have_a_finite_sharpness_ratio():
    assert metrics.sharpness_ratio(torch.zeros(1, 16, 16, 3), torch.zeros(1, 16, 16, 3)) == 1


def test_films_are_judged_as_eight_bit_pictures():
    clip = shifted(3, 0)
    assert torch.equal(metrics.eight_bits(clip.double() + 0.4 / 255), clip)
    assert metrics.eight_bits(clip * 9 - 4).aminmax() == (0, 1)


def test_wrong_shapes_and_broken_values_are_refused():
    clip = shifted(4, 0)
    with pytest.raises(ValueError, match="expected \\(2, 64, 64, 3\\)"):
        metrics.score(clip[1:], clip)
    with pytest.raises(ValueError, match="NaN"):
        metrics.eight_bits(clip * float("nan"))


def test_bootstrap_interval_is_the_same_for_a_seed_and_brackets_the_mean():
    values = np.random.default_rng(0).normal(1, 1, 30)
    low, high = metrics.paired_bootstrap(values, seed=3)
    assert (low, high) == metrics.paired_bootstrap(values, seed=3)
    assert low < values.mean() < high
    # the textbook's interval of a mean: 1.96 standard errors on both sides
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 30**0.5, rel=0.1)


def test_bootstrap_intervals_cover_the_true_mean_about_nineteen_times_in_twenty():
    rng = np.random.default_rng(1)
    intervals = [metrics.paired_bootstrap(rng.normal(0, 1, 40), seed=i, n=500) for i in range(200)]
    covered = sum(low <= 0 <= high for low, high in intervals)
    assert (
        0.88 <= covered / 200 <= 0.99
    )  # 0.95 +- 3 standard deviations of 200 coins, less the small sample's loss


def test_equal_differences_leave_no_interval_and_none_at_all_are_refused():
    assert metrics.paired_bootstrap([0.5] * 4) == (0.5, 0.5)
    with pytest.raises(ValueError, match="one per clip"):
        metrics.paired_bootstrap([])
