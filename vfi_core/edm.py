"""EDM preconditioning in SVD's v-prediction form, its loss weights and its noise schedule.

Karras et al. (2022), "Elucidating the Design Space of Diffusion-Based Generative Models", with the scalings
of Stability's `VScalingWithEDMcNoise` (data deviation 1).
"""

from __future__ import annotations

import torch
from torch import Tensor


def scalings(sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(c_skip, c_out, c_in, c_noise) of D(x) = c_skip x + c_out F(c_in x; c_noise), each of sigma's shape."""
    c_skip = 1 / (sigma**2 + 1)
    c_out = -sigma / (sigma**2 + 1) ** 0.5
    c_in = 1 / (sigma**2 + 1) ** 0.5
    c_noise = 0.25 * sigma.log()
    return c_skip, c_out, c_in, c_noise


def v_target(x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """What F should say: v = (noise - sigma x0) / sqrt(1 + sigma^2), so that D(x0 + sigma noise) = x0."""
    return (noise - sigma * x0) / (1 + sigma**2) ** 0.5


def loss_weight(sigma: Tensor, loss: str) -> Tensor:
    """The weight of |F - v|^2: `v` is 1 (EDM's (1 + s^2) / s^2 on |D - x0|^2); `eps` is eq. 1 as written.

    |eps - eps_theta|^2 = |D - x0|^2 / s^2 = |F - v|^2 / (1 + s^2).
    """
    return torch.ones_like(sigma) if loss == "v" else 1 / (1 + sigma**2)


def karras_sigmas(steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """``steps`` noise levels from sigma_max down to sigma_min, then 0: [steps + 1] float32 (Karras eq. 5)."""
    if steps < 1:
        raise ValueError(f"steps is {steps}; use at least 1")
    ramp = torch.linspace(0, 1, steps)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return torch.cat([(high + ramp * (low - high)) ** rho, torch.zeros(1)])
