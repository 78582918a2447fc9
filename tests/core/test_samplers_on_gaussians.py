"""Samplers on Gaussian clips, where everything is known in closed form.

A clip is 5 frames of a random walk, every pixel a clip of its own. The exact denoisers are affine, so that a
sampler is an affine map with noise: its mean and covariance follow from matrices. 20,000 pixels have to agree
with the matrices, and the matrices with the posterior given both ends.

Legend: t frames, h w pixels.
"""

import numpy as np
import pytest
import torch

from vfi_core.edm import karras_sigmas
from vfi_core.samplers import IN_TURN, fuse_directions, hold_known, sample_euler

FRAMES, H, W = 5, 100, 200
FIRST, LAST = 1.5, -0.5
BETWEEN = slice(1, FRAMES - 1)
VARIANCES = np.cumsum([4.0, 0.5, 0.2, 1.0, 0.3])  # of the first frame, and of each step of the walk
PRIOR = np.minimum.outer(VARIANCES, VARIANCES)
TURN, EYE = np.eye(FRAMES)[::-1], np.eye(FRAMES)
METHODS = ["held", "fused", "bidirectional", "motion_prior"]


def posterior(known):
    """Mean [t] and covariance [t, t] of the walk given some of its frames exactly."""
    at, rest = sorted(known), [i for i in range(FRAMES) if i not in known]
    mean, covariance = np.zeros(FRAMES), np.zeros((FRAMES, FRAMES))
    gain = PRIOR[np.ix_(rest, at)] @ np.linalg.inv(PRIOR[np.ix_(at, at)])
    mean[at] = [known[i] for i in at]
    mean[rest] = gain @ mean[at]
    covariance[np.ix_(rest, rest)] = PRIOR[np.ix_(rest, rest)] - gain @ PRIOR[np.ix_(at, rest)]
    return mean, covariance


def exact(known, sigma):
    """E[clip | clip + sigma n = x, known frames] = a x + b, as (a, b)."""
    mean, covariance = posterior(known)
    a = covariance @ np.linalg.inv(covariance + sigma**2 * EYE)
    return a, mean - a @ mean


BOTH, ONWARDS, BACKWARDS = {0: FIRST, FRAMES - 1: LAST}, {0: FIRST}, {FRAMES - 1: LAST}
# What the model knows onwards, backwards and in its unconditional branch: both ends always, or the end it
# starts from and without guidance none, as image-to-video weights do.
MODELS = {"both ends": (BOTH, BOTH, BOTH), "own end": (ONWARDS, BACKWARDS, {})}


def directions(model, sigma):
    """[(guided, unconditional) onwards, likewise backwards], each (a, b); backwards for turned clips."""
    onwards, backwards, none = (exact(known, sigma) for known in MODELS[model])
    turned = [(TURN @ a @ TURN, TURN @ b) for a, b in (backwards, none)]
    return [(onwards, none), tuple(turned)]


# The matrices


def euler_moments(model, sigmas, fused):
    """Mean and covariance of `held` and `fused`. The state is the clip, and the noise it began with, which
    re-noises its ends.
    """
    ends = np.diag([1.0, 0, 0, 0, 1.0])
    given = ends @ np.array([FIRST, 0, 0, 0, LAST])
    fade = np.diag(np.linspace(1, 0, FRAMES))
    start = np.vstack([EYE * np.sqrt(1 + sigmas[0] ** 2), EYE])
    mean, covariance = np.zeros(2 * FRAMES), start @ start.T
    for s, following in zip(sigmas[:-1], sigmas[1:], strict=True):
        (onwards, _), (backwards, _) = directions(model, s)
        a, b = onwards
        if fused:
            a = fade @ a + (EYE - fade) @ TURN @ backwards[0] @ TURN
            b = fade @ b + (EYE - fade) @ TURN @ backwards[1]
        shown = np.hstack([EYE - ends, s * ends])
        x0 = (EYE - ends) @ a @ shown
        shift = (EYE - ends) @ (a @ given + b) + given
        step = following / s
        rows = step * np.hstack([EYE, 0 * EYE]) + (1 - step) * x0
        whole = np.vstack([rows, np.hstack([0 * EYE, EYE])])
        mean = whole @ mean + np.concatenate([(1 - step) * shift, np.zeros(FRAMES)])
        covariance = whole @ covariance @ whole.T
    return mean[:FRAMES], covariance[:FRAMES, :FRAMES]


def in_turn_moments(model, sigmas, prior):
    """Mean and covariance of `bidirectional`, and with ``prior`` of `motion_prior`."""
    mean, covariance = np.zeros(FRAMES), EYE * (1 + sigmas[0] ** 2)
    inner, far = np.diag([1.0, 1, 1, 1, 0]), EYE[-1]
    steps = len(sigmas) - 1
    for i, (s, following) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        (onwards, none), (backwards, turned_none) = directions(model, s)
        ratio, put_back = following / s, (s**2 - following**2) * EYE

        def half(x0, unconditional, end, ratio=ratio):
            return (
                inner @ x0[0] + ratio * (EYE - unconditional[0]),
                inner @ x0[1] + end * far - ratio * unconditional[1],
            )

        first, second = half(onwards, none, LAST), half(backwards, turned_none, FIRST)
        second = TURN @ second[0] @ TURN, TURN @ second[1]
        # the forward estimate with every frame moved by what the last one misses
        moved = onwards[0] - np.outer(np.ones(FRAMES), onwards[0][-1]), onwards[1] + LAST - onwards[1][-1]
        block = half((TURN @ moved[0] @ TURN, TURN @ moved[1]), turned_none, FIRST)
        block = TURN @ block[0] @ TURN, TURN @ block[1]
        repeats = 3 if prior and i < 0.2 * steps else 0
        for (a, b), noise in [(block, put_back)] * repeats + [(first, put_back), (second, 0)]:
            mean, covariance = a @ mean + b, a @ covariance @ a.T + noise
    return mean, covariance


def moments(method, model, sigmas):
    """Mean [3] and covariance [3, 3] of the frames between."""
    sigmas = sigmas.numpy()
    if method in IN_TURN:
        mean, covariance = in_turn_moments(model, sigmas, method == "motion_prior")
    else:
        mean, covariance = euler_moments(model, sigmas, method == "fused")
    return mean[BETWEEN], covariance[BETWEEN, BETWEEN]


# The samplers


def sampled(method, model, sigmas):
    """The frames between, [3, h w]."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(FRAMES, 1, H, W, dtype=torch.float64, generator=generator)
    x = noise * (1 + sigmas[0] ** 2).sqrt()

    def affine(a, b, x):
        out = torch.from_numpy(a.copy()) @ x.flatten(1) + torch.from_numpy(b.copy())[:, None]
        return out.view_as(x)

    def estimates(direction):
        def both(x, sigma):
            guided, unconditional = directions(model, sigma.item())[direction]
            return affine(*unconditional, x), affine(*guided, x)

        return both

    onwards, backwards = estimates(0), estimates(1)
    known, mask = torch.zeros(FRAMES, 1, H, W).double(), torch.zeros(FRAMES, 1, H, W)
    known[0], known[-1], mask[[0, -1]] = FIRST, LAST, 1
    if method in IN_TURN:
        x = IN_TURN[method](onwards, backwards, x, sigmas, known[0], known[-1], generator)
    else:
        alone, other = (lambda x, sigma, e=e: e(x, sigma)[1] for e in (onwards, backwards))
        denoiser = fuse_directions(alone, other) if method == "fused" else alone
        x = sample_euler(hold_known(denoiser, known, mask, noise), x, sigmas)
    return x[BETWEEN].flatten(1).numpy()


def schedule(steps):
    """SVD's own."""
    return karras_sigmas(steps, 0.002, 700.0).double()


# Two steps, one of them in the first fifth: what a motion prior did is not forgotten yet.
SHORT = torch.tensor([1.0, 0.8, 0.6], dtype=torch.float64)


def standard_errors(covariance):
    """Of the mean and the covariance of h w Gaussian samples."""
    variance = np.diag(covariance)
    return np.sqrt(variance / (H * W)), np.sqrt((np.outer(variance, variance) + covariance**2) / (H * W))


@pytest.mark.parametrize("sigmas", [SHORT, schedule(25)], ids=["short", "25 steps"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", METHODS)
def test_samples_have_the_mean_and_covariance_of_the_matrices(method, model, sigmas):
    mean, covariance = moments(method, model, sigmas)
    x = sampled(method, model, sigmas)
    of_mean, of_covariance = standard_errors(covariance)
    assert (np.abs(x.mean(1) - mean) < 4 * of_mean).all()  # 2.4 at most measured
    assert (np.abs(np.cov(x) - covariance) < 4 * of_covariance).all()


def test_the_short_schedule_tells_a_motion_prior_from_none():
    mean, covariance = moments("motion_prior", "own end", SHORT)
    other, _ = moments("bidirectional", "own end", SHORT)
    assert (np.abs(mean - other) > 15 * standard_errors(covariance)[0]).all()


@pytest.mark.parametrize("method", METHODS)
def test_with_exact_denoisers_of_both_ends_every_method_tends_to_the_posterior(method):
    """Each step is one of Euler on the probability flow, or puts back noise as the forward process does; the
    motion prior moves nothing, since the forward estimate ends at the last keyframe already. What is left is
    Euler's error, of first order, and for `held` and `fused` the start: mean 0 at sigma 700, where the flow
    of the posterior has its mean; 0.001 of it arrives. The others forget the start.
    """
    mean, covariance = (part[BETWEEN] for part in posterior(BOTH))
    covariance = covariance[:, BETWEEN]
    errors = []
    for steps in (200, 400, 800):
        found, spread = moments(method, "both ends", schedule(steps))
        assert np.abs(found - mean).max() < 0.0015
        errors.append(np.abs(spread - covariance).max())
    assert errors[-1] < 0.005  # variances of 0.26 to 0.46
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.03)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.03)


@pytest.mark.parametrize(
    ("method", "off", "deviations"),
    [
        ("held", 0.803, (1.09, 1.14, 1.75)),
        ("fused", 0.104, (1.15, 1.16, 1.16)),
        ("bidirectional", 0.052, (0.92, 0.91, 0.87)),
        ("motion_prior", 0.052, (0.92, 0.91, 0.87)),
    ],
)
def test_with_denoisers_of_one_end_each_no_method_samples_the_posterior(method, off, deviations):
    """How far the means are off, and the standard deviations as parts of the posterior's (400 steps)."""
    mean, covariance = posterior(BOTH)
    found, spread = moments(method, "own end", schedule(400))
    assert np.abs(found - mean[BETWEEN]).max() == pytest.approx(off, abs=0.001)
    ratios = np.sqrt(np.diag(spread) / np.diag(covariance)[BETWEEN])
    assert ratios == pytest.approx(deviations, abs=0.01)
