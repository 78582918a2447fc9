import torch

from vfi_core.edm import karras_sigmas
from vfi_core.samplers import clip_noise, hold_known, linear_guidance, sample_euler, triangle_guidance


def gaussian(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """The exact denoiser of N(2, 0.5^2)."""
    return (0.25 * x + sigma**2 * 2) / (0.25 + sigma**2)


def test_euler_carries_noise_to_the_data_distribution():
    sigmas = karras_sigmas(200, 0.002, 80.0).double()
    x = sample_euler(
        gaussian, torch.randn(20_000, generator=torch.Generator().manual_seed(0)) * sigmas[0], sigmas
    )
    assert abs(x.mean().item() - 2) < 0.02  # 20,000 samples: standard error 0.004, and Euler's own
    assert abs(x.std().item() - 0.5) < 0.02


def test_known_frames_come_out_again_and_are_shown_at_the_noise_of_the_step():
    known, noise = torch.randn(2, 5, 4, 2, 2)
    mask = torch.zeros(5, 1, 2, 2)
    mask[[0, 4]] = 1
    shown = []

    def spy(x, sigma):
        shown.append((x[[0, 4]].clone(), sigma))
        return torch.zeros_like(x)

    sigmas = karras_sigmas(4, 0.02, 80.0)
    x = sample_euler(hold_known(spy, known, mask, noise), noise * sigmas[0], sigmas)
    torch.testing.assert_close(x[[0, 4]], known[[0, 4]], rtol=0, atol=1e-6)  # x - (x - d) in float32
    for frames, sigma in shown:
        assert torch.equal(frames, known[[0, 4]] + sigma * noise[[0, 4]])


def test_an_empty_mask_leaves_sampling_unchanged():
    noise = torch.randn(5, 4, 2, 2)
    sigmas = karras_sigmas(4, 0.02, 80.0)
    held = hold_known(gaussian, torch.zeros_like(noise), torch.zeros(5, 1, 2, 2), noise)
    assert torch.equal(sample_euler(held, noise * 80, sigmas), sample_euler(gaussian, noise * 80, sigmas))


def test_one_seed_gives_one_noise():
    assert torch.equal(clip_noise(7, 8, 8, 3), clip_noise(7, 8, 8, 3))
    assert not torch.equal(clip_noise(7, 8, 8, 3), clip_noise(7, 8, 8, 4))


def test_the_triangle_is_low_at_both_keyframes_and_high_in_the_middle():
    assert triangle_guidance(5, 1.0, 3.0).tolist() == [1, 2, 3, 2, 1]
    assert torch.equal(triangle_guidance(6, 1.0, 3.0), triangle_guidance(6, 1.0, 3.0).flip(0))
    assert linear_guidance(3, 1.0, 3.0).tolist() == [1, 2, 3]
