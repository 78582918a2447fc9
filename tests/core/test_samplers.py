import numpy as np
import torch

from vfi_core.edm import karras_sigmas
from vfi_core.samplers import (
    average_directions,
    clip_noise,
    fuse_directions,
    hold_known,
    linear_guidance,
    mean_guidance,
    sample_bidirectional,
    sample_euler,
    sample_reinjecting,
    triangle_guidance,
)


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


def test_fused_directions_cross_fade_from_the_one_to_the_other():
    x = torch.randn(5, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    fused = fuse_directions(lambda x, sigma: x + 1, lambda x, sigma: x + 3)(x, torch.tensor(1.0))
    expected = x + torch.tensor([1, 1.5, 2, 2.5, 3]).view(-1, 1, 1, 1)
    torch.testing.assert_close(fused, expected, rtol=0, atol=1e-6)  # fp32


def test_the_reversed_direction_sees_the_clip_reversed_and_is_turned_back():
    x = torch.randn(5, 4, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def forward(x, sigma):
        return x.cumsum(0)

    def backward(x, sigma):  # the same film seen in reverse
        return forward(x.flip(0), sigma).flip(0)

    sigma = torch.tensor(1.0, dtype=torch.float64)
    torch.testing.assert_close(fuse_directions(forward, backward)(x, sigma), forward(x, sigma))


def test_bidirectional_sampling_is_its_pseudo_code_step_by_step():
    """In numpy, from the published pseudo-code, on denoisers that mix frames."""
    rng = np.random.default_rng(0)
    forwards, backwards = rng.normal(size=(2, 2, 5, 5)) / 5  # direction, branch: how frames mix
    start, end = rng.normal(size=(2, 4, 2, 2))
    sigmas = karras_sigmas(6, 0.02, 80.0).double()
    noise = torch.randn(6, 5, 4, 2, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    w = 1.7

    def estimate(mix, x, sigma):
        return np.tanh(np.einsum("ij,jchw->ichw", mix, x) / (1 + sigma))

    x = begun = rng.normal(size=(5, 4, 2, 2)) * 80
    for i in range(6):
        s, following = sigmas[i].item(), sigmas[i + 1].item()
        for mix, far in ((forwards, end), (backwards, start)):
            u, c = estimate(mix[0], x, s), estimate(mix[1], x, s)
            x0 = u + w * (c - u)
            x0[-1] = far
            x = x0 + following * (x - u) / s
            if far is end:
                x = x + np.sqrt(s**2 - following**2) * noise[i].numpy()
            x = x[::-1]

    def direction(mix):
        def estimates(x, sigma):
            u, c = (torch.from_numpy(estimate(m, x.numpy(), sigma.item())) for m in mix)
            return u, u + w * (c - u)

        return estimates

    seen = []
    found = sample_bidirectional(
        direction(forwards),
        direction(backwards),
        torch.from_numpy(begun.copy()),
        sigmas,
        torch.from_numpy(start),
        torch.from_numpy(end),
        torch.Generator().manual_seed(3),
        seen.append,
    )
    torch.testing.assert_close(found, torch.from_numpy(x.copy()), rtol=0, atol=1e-10)
    assert seen == list(range(6))


def test_bidirectional_sampling_keeps_the_distribution_of_the_frames_between():
    sigmas = karras_sigmas(100, 0.002, 80.0).double()
    g = torch.Generator().manual_seed(0)
    x = torch.randn(3, 20_000, generator=g, dtype=torch.float64) * sigmas[0]
    ends = torch.full((2, 20_000), 2.0, dtype=torch.float64)

    def exact(x, sigma):
        return gaussian(x, sigma), gaussian(x, sigma)

    middle = sample_bidirectional(exact, exact, x, sigmas, *ends, torch.Generator().manual_seed(1))[1]
    assert abs(middle.mean().item() - 2) < 0.02  # 20,000 samples: standard error 0.004
    assert abs(middle.std().item() - 0.5) < 0.03


def test_reinjecting_sampling_is_its_pseudo_code_step_by_step():
    """In numpy, from the published pseudo-code in v, on denoisers that mix frames."""
    rng = np.random.default_rng(0)
    forwards, backwards = rng.normal(size=(2, 5, 5)) / 5
    sigmas = karras_sigmas(5, 0.02, 80.0).double()
    noise = torch.randn(6, 5, 4, 2, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def v_of(mix, x, s):
        return np.tanh(np.einsum("ij,jchw->ichw", mix, x) / (1 + s))

    x = begun = rng.normal(size=(5, 4, 2, 2)) * 80
    draws = iter(noise.numpy())
    for i in range(5):
        s, following = sigmas[i].item(), sigmas[i + 1].item()

        def step(x, s=s, following=following):
            v = 0.5 * v_of(forwards, x, s) + 0.5 * v_of(backwards, x[::-1], s)[::-1]
            x0 = x / (s**2 + 1) - s / np.sqrt(s**2 + 1) * v
            return x + (following - s) * (x - x0) / s

        x = step(x)
        if i < 2:  # int(5 / 2)
            for _ in range(3):
                x = step(x + np.sqrt(s**2 - following**2) * next(draws))

    asked = []

    def direction(mix):
        def denoiser(x, sigma):
            asked.append(sigma)
            s = sigma.item()
            v = torch.from_numpy(v_of(mix, x.numpy(), s))
            return x / (s**2 + 1) - s / (s**2 + 1) ** 0.5 * v

        return denoiser

    seen = []
    found = sample_reinjecting(
        average_directions(direction(forwards), direction(backwards)),
        torch.from_numpy(begun.copy()),
        sigmas,
        torch.Generator().manual_seed(3),
        seen.append,
        injections=3,
    )
    torch.testing.assert_close(found, torch.from_numpy(x.copy()), rtol=0, atol=1e-10)
    assert seen == list(range(5)) and len(asked) == 2 * (5 + 3 * 2)


def test_without_injections_it_is_euler():
    noise, sigmas = torch.randn(5, 4, 2, 2) * 80, karras_sigmas(4, 0.02, 80.0)
    found = sample_reinjecting(gaussian, noise, sigmas, torch.Generator(), injections=0)
    torch.testing.assert_close(found, sample_euler(gaussian, noise, sigmas))


def test_reinjecting_keeps_the_distribution():
    sigmas = karras_sigmas(100, 0.002, 80.0).double()
    g = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, generator=g, dtype=torch.float64) * sigmas[0]
    x = sample_reinjecting(gaussian, x, sigmas, torch.Generator().manual_seed(1))
    assert abs(x.mean().item() - 2) < 0.02  # 20,000 samples: standard error 0.004
    assert abs(x.std().item() - 0.5) < 0.03


def test_guidance_for_both_directions_is_the_mean_of_the_ramp():
    assert mean_guidance(1.0, 3.0) == (2.0, 2.0)


def test_the_triangle_is_low_at_both_keyframes_and_high_in_the_middle():
    assert triangle_guidance(5, 1.0, 3.0).tolist() == [1, 2, 3, 2, 1]
    assert torch.equal(triangle_guidance(6, 1.0, 3.0), triangle_guidance(6, 1.0, 3.0).flip(0))
    assert linear_guidance(3, 1.0, 3.0).tolist() == [1, 2, 3]
