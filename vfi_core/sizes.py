"""Pictures of any size into the model's working size and back, with their aspect kept."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

MULTIPLE = 64  # 8 in the VAE, 8 in the U-Net


def working_size(height: int, width: int, trained: tuple[int, int]) -> tuple[int, int]:
    """(H, W) the model works at: its trained short side, the picture's aspect, rounded up to multiples of
    64.
    """
    scale = min(trained) / min(height, width)
    return _round_up(height * scale), _round_up(width * scale)


def content_size(height: int, width: int, working: tuple[int, int]) -> tuple[int, int]:
    """(H, W) a picture takes up inside the working size with its aspect kept; the rest is padding."""
    scale = min(working[0] / height, working[1] / width)
    return min(working[0], max(1, round(height * scale))), min(working[1], max(1, round(width * scale)))


def fit(pictures: Tensor, working: tuple[int, int]) -> Tensor:
    """[k, 3, H, W] resampled into the working size's top left, its edge repeated over the rest."""
    content = content_size(pictures.shape[2], pictures.shape[3], working)
    if pictures.shape[2:] != content:
        pictures = F.interpolate(pictures, content, mode="bicubic", antialias=True).clamp(-1, 1)
    return F.pad(pictures, (0, working[1] - content[1], 0, working[0] - content[0]), mode="replicate")


def restore(pictures: Tensor, height: int, width: int) -> Tensor:
    """[t, 3, H, W] of the working size back to height x width: padding cut away, then resampled."""
    content = content_size(height, width, (pictures.shape[2], pictures.shape[3]))
    pictures = pictures[:, :, : content[0], : content[1]]
    if content == (height, width):
        return pictures
    return F.interpolate(pictures, (height, width), mode="bicubic", antialias=True).clamp(-1, 1)


def _round_up(length: float) -> int:
    return max(MULTIPLE, -(-round(length) // MULTIPLE) * MULTIPLE)
