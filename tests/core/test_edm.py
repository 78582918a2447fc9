import pytest
import torch

from vfi_core.edm import karras_sigmas, loss_weight, scalings, v_target

SIGMAS = torch.tensor([0.002, 0.02, 0.5, 1.0, 7.0, 80.0, 700.0], dtype=torch.float64)


def test_the_v_target_denoises_to_the_clean_picture_at_every_sigma():
    x0, noise = torch.randn(2, 7, 3, dtype=torch.float64)[..., 0]
    c_skip, c_out, _, _ = scalings(SIGMAS)
    denoised = c_skip * (x0 + SIGMAS * noise) + c_out * v_target(x0, noise, SIGMAS)
    torch.testing.assert_close(denoised, x0, rtol=0, atol=1e-12)


def test_v_loss_is_edms_weighted_error_and_eps_loss_is_eq_1():
    x0, noise, out = torch.randn(3, 7, dtype=torch.float64)
    c_skip, c_out, _, _ = scalings(SIGMAS)
    x = x0 + SIGMAS * noise
    denoised = c_skip * x + c_out * out
    v_error = (out - v_target(x0, noise, SIGMAS)) ** 2
    edm = (1 + SIGMAS**2) / SIGMAS**2 * (denoised - x0) ** 2
    eps = ((x - denoised) / SIGMAS - noise) ** 2
    torch.testing.assert_close(loss_weight(SIGMAS, "v") * v_error, edm, rtol=1e-8, atol=0)
    # x - D cancels fifteen digits at sigma 0.002.
    torch.testing.assert_close(loss_weight(SIGMAS, "eps") * v_error, eps, rtol=1e-6, atol=1e-12)


def test_the_input_to_the_network_has_unit_variance():
    _, _, c_in, _ = scalings(SIGMAS)
    torch.testing.assert_close(c_in**2 * (1 + SIGMAS**2), torch.ones_like(SIGMAS))


def test_karras_sigmas_run_from_max_to_min_then_zero():
    sigmas = karras_sigmas(25, 0.002, 700.0)
    assert sigmas.shape == (26,)
    assert sigmas[0].item() == pytest.approx(700.0, rel=1e-5)
    assert sigmas[-2].item() == pytest.approx(0.002, rel=1e-4)
    assert sigmas[-1] == 0 and bool((sigmas.diff() < 0).all())
    assert karras_sigmas(1, 0.002, 700.0)[0].item() == pytest.approx(700.0, rel=1e-5)


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="steps is 0; use at least 1"):
        karras_sigmas(0, 0.002, 700.0)
