"""Metrics by their laws, and SSIM against scikit-image."""

from __future__ import annotations

import pytest

pytest.importorskip("cv2", reason="needs the extra 'eval'")

import numpy as np
import torch

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
    assert scores.ssim == pytest.approx(1, abs=1e-12)
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


def test_ssim_agrees_with_scikit_image():
    skimage = pytest.importorskip("skimage.metrics", reason="needs scikit-image")
    a, b = texture(1, 40, 56), texture(2, 40, 56)
    b = 0.6 * a + 0.4 * b
    expected = skimage.structural_similarity(
        a.numpy(),
        b.numpy(),
        data_range=1,
        channel_axis=-1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert 0.1 < expected < 0.9
    # scikit-image works in float32 here: 1e-7 measured
    assert float(metrics.ssim(a[None], b[None])[0]) == pytest.approx(float(expected), abs=1e-4)


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


def test_generated_frames_are_judged_as_eight_bit_pictures():
    clip = shifted(3, 0)
    scores = metrics.score(clip[1:-1] + 0.4 / 255, clip)
    assert scores.psnr == float("inf")


def test_wrong_shapes_and_broken_values_are_refused():
    clip = shifted(4, 0)
    with pytest.raises(ValueError, match="expected \\(2, 64, 64, 3\\)"):
        metrics.score(clip, clip)
    with pytest.raises(ValueError, match="NaN"):
        metrics.score(clip[1:-1] * float("nan"), clip)


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
