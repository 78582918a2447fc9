import numpy as np
import pytest
import torch

from vfi_core.edm import karras_sigmas
from vfi_core.samplers import (
    IN_TURN,
    average_directions,
    clip_noise,
    fuse_directions,
    hold_known,
    linear_guidance,
    mean_guidance,
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


def test_churn_puts_noise_back_before_every_step_and_keeps_the_distribution():
    sigmas = karras_sigmas(400, 0.002, 80.0).double()
    begun = torch.randn(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * sigmas[0]
    found = sample_euler(gaussian, begun, sigmas, None, 40.0, torch.Generator().manual_seed(1))
    assert abs(found.mean().item() - 2) < 0.02 and abs(found.std().item() - 0.5) < 0.02

    x, stream = begun.numpy(), torch.Generator().manual_seed(1)
    for s, following in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):  # Algorithm 2
        raised = s * (1 + min(40.0 / 400, 2**0.5 - 1))
        noise = torch.randn(20_000, generator=stream, dtype=torch.float64).numpy()
        x = x + np.sqrt(raised**2 - s**2) * noise
        x = x + (following - raised) * (x - (0.25 * x + raised**2 * 2) / (0.25 + raised**2)) / raised
    np.testing.assert_allclose(found.numpy(), x, rtol=0, atol=1e-10)
    assert torch.equal(
        sample_euler(gaussian, begun, sigmas, None, 0.0), sample_euler(gaussian, begun, sigmas)
    )


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


# Pseudo-code, in numpy and float64, on denoisers that mix frames. What they were shown is the trajectory.

STEPS, FRAMES, SHAPE, GUIDANCE = 7, 5, (5, 4, 2, 2), 1.7
SIGMAS = karras_sigmas(STEPS, 0.02, 80.0).double()
RNG = np.random.default_rng(0)
MIX = RNG.normal(size=(2, 2, FRAMES, FRAMES)) / FRAMES  # direction, branch
BEGUN, KNOWN = 80 * RNG.normal(size=SHAPE), RNG.normal(size=SHAPE)
NOISE, FIRST, LAST = RNG.normal(size=SHAPE), KNOWN[0], KNOWN[-1]


def estimate(direction, branch, x, sigma):
    mixed = np.einsum("ij,jchw->ichw", MIX[direction, branch], x)
    return np.tanh(mixed / (1 + sigma)) + x * 0.3 / (1 + sigma**2)


def guided(direction, x, sigma):
    u, c = (estimate(direction, branch, x, sigma) for branch in (0, 1))
    return u, u + GUIDANCE * (c - u)


def spied(direction, shown, both=True):
    """The estimates, or the denoiser, as the samplers take them; ``shown`` gets every x."""

    def asked(x, sigma):
        shown.append(x.numpy().copy())
        u, w = (torch.from_numpy(e) for e in guided(direction, x.numpy(), sigma.item()))
        return (u, w) if both else w

    return asked


def agree(found, shown, expected, told):
    assert len(shown) == len(told)
    for a, b in zip([*shown, found.numpy()], [*told, expected], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)  # float64, values up to 240: 6e-14 measured


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("fused", [False, True], ids=["held", "fused"])
def test_sampling_with_held_frames_is_its_pseudo_code_at_every_call(fused, clean):
    ends, told = [0, FRAMES - 1], []
    fade = np.linspace(1, 0, FRAMES).reshape(-1, 1, 1, 1)
    x = BEGUN.copy()
    for s, following in zip(SIGMAS[:-1].tolist(), SIGMAS[1:].tolist(), strict=True):
        y = x.copy()
        y[ends] = KNOWN[ends] if clean else KNOWN[ends] + s * NOISE[ends]
        moved = []  # TRF: an Euler step in either direction, cross-faded
        for direction in range(1 + fused):
            seen = y[::-1] if direction else y
            told.append(seen.copy())
            x0 = guided(direction, seen, s)[1][:: -1 if direction else 1].copy()
            x0[ends] = KNOWN[ends]
            moved.append(x + (following - s) * (x - x0) / s)
        x = fade * moved[0] + (1 - fade) * moved[1] if fused else moved[0]
    shown = []
    denoiser = spied(0, shown, both=False)
    if fused:
        denoiser = fuse_directions(denoiser, spied(1, shown, both=False))
    mask = torch.zeros(FRAMES, 1, 2, 2, dtype=torch.float64)
    mask[ends] = 1
    held = hold_known(denoiser, torch.from_numpy(KNOWN), mask, torch.from_numpy(NOISE), clean)
    agree(sample_euler(held, torch.from_numpy(BEGUN), SIGMAS), shown, x, told)
    assert len(told) == (2 if fused else 1) * STEPS


def vibid(x, s, following, noise, told):
    """One double pass of ViBiDSampler. ``noise`` gives eps; ``told`` gets every x a denoiser is shown."""
    for direction, far_end in ((0, LAST), (1, FIRST)):
        told.append(x.copy())
        u, x0 = guided(direction, x, s)
        x0[-1] = far_end
        x = x0 + following * (x - u) / s
        if direction == 0:
            x = x + np.sqrt(s**2 - following**2) * noise()
        x = x[::-1]
    return x


def mpd(x, s, following, noise, told):
    """One repeat of MPD's block: the backward noise from the forward noise's residuals."""
    told.append(x.copy())
    u, c = guided(0, x, s)
    turned, forward = x[::-1], (x - c) / s
    anchor = (turned[0] - LAST) / s
    residuals = forward[1:] - forward[:-1]
    backward = np.concatenate([anchor[None], anchor + np.cumsum(-residuals[::-1], axis=0)])
    x0 = turned - s * backward
    x0[-1] = FIRST
    turned = x0 + following * (turned - u[::-1]) / s
    return turned[::-1] + np.sqrt(s**2 - following**2) * noise()


@pytest.mark.parametrize(("method", "calls"), [("bidirectional", 2 * 7), ("motion_prior", 2 * 7 + 3 * 2)])
def test_sampling_in_turn_is_its_pseudo_code_at_every_call(method, calls):
    generator = torch.Generator().manual_seed(3)
    x, told = BEGUN.copy(), []

    def noise():
        return torch.randn(SHAPE, generator=generator, dtype=torch.float64).numpy()

    for i, (s, following) in enumerate(zip(SIGMAS[:-1].tolist(), SIGMAS[1:].tolist(), strict=True)):
        if method == "motion_prior" and i < 0.2 * STEPS:
            for _ in range(3):
                x = mpd(x, s, following, noise, told)
        x = vibid(x, s, following, noise, told)

    shown, done = [], []
    found = IN_TURN[method](
        spied(0, shown),
        spied(1, shown),
        torch.from_numpy(BEGUN),
        SIGMAS,
        torch.from_numpy(FIRST),
        torch.from_numpy(LAST),
        torch.Generator().manual_seed(3),
        done.append,
    )
    agree(found, shown, x, told)
    assert len(told) == calls and done == list(range(STEPS))


@pytest.mark.parametrize(("steps", "calls"), [(1, 5), (5, 13), (6, 18), (20, 52), (25, 65)])
def test_a_motion_prior_takes_the_calls_that_its_docstring_says(steps, calls):
    shown, clip = [], torch.zeros(SHAPE)

    def estimates(x, sigma):
        shown.append(sigma)
        return x, x

    sigmas = karras_sigmas(steps, 0.02, 80.0)
    IN_TURN["motion_prior"](estimates, estimates, clip, sigmas, clip[0], clip[-1], torch.Generator())
    assert len(shown) == calls


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
