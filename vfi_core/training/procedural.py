"""Procedural clips: textured layers on curved paths, drawn from a seed.

Real footage with large motion and a licence that allows training is scarce; these scenes have wide, curved
and occluding motion, hard edges and exact ground truth.

Legend: t frames, c channels, H W pixels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def procedural_clip(
    generator: torch.Generator,
    frames: int,
    size: int,
    background: Tensor | None = None,
    motion: float = 1.0,
    contrast: float = 1.0,
) -> Tensor:
    """A scene of one to three moving sprites over a moving background.

    generator   a CPU generator; the scene is a function of its state alone
    frames      t
    size        H = W, pixels
    background  [3, h, w] in -1..1, a photograph to pan, zoom and rotate instead of a drawn texture
    motion      scales every path; 1 moves sprites by about half the frame in a clip
    contrast    of the drawn patterns, 0..1: from flat surfaces to stark ones, at 0 flat alone
    Returns [t, 3, size, size] in -1..1.
    """
    g = generator
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    grid = torch.stack([x, y], dim=-1)  # [H, W, 2] in -1..1
    time = torch.linspace(0, 1, frames)

    texture = _texture(g, size * 2, contrast) if background is None else background
    view = _local(grid, *_camera_path(g, time, motion))  # [t, H, W, 2]
    clip = _sample(texture, view * (0.5 if background is None else 0.7))
    for _ in range(_integer(g, 1, 3)):
        centre, angle, scale = _sprite_path(g, time, motion)
        local = _local(grid, centre, angle, scale)
        distance = _shape(g, local) * scale[:, None, None]  # in units of the frame's half width
        pixel = 2.0 / size
        alpha = (0.5 - distance / pixel).clamp(0, 1)[:, None]  # [t, 1, H, W], one pixel of antialiasing
        colour = _sample(_texture(g, size, contrast), local * 0.8)
        if _uniform(g) < 0.5:
            outline = (0.5 - (distance + 2.5 * pixel).abs() / pixel + 1.0).clamp(0, 1)[:, None]
            colour = torch.lerp(colour, _colour(g)[None, :, None, None].expand_as(colour), outline)
        clip = torch.lerp(clip, colour, alpha)
    return clip.clamp(-1, 1)


def _uniform(g: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    return low + (high - low) * torch.rand((), generator=g).item()


def _integer(g: torch.Generator, low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, (), generator=g))


def _colour(g: torch.Generator) -> Tensor:
    return torch.rand(3, generator=g) * 1.7 - 0.85


def _texture(g: torch.Generator, size: int, contrast: float) -> Tensor:
    """[3, size, size]: noise, stripes, checks or dots between two to four colours."""
    axis = torch.linspace(-1, 1, size)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    kind = _integer(g, 0, 7)  # half of them smooth noise
    angle, pitch = _uniform(g, 0, math.pi), _uniform(g, 2, 5)
    u = x * math.cos(angle) + y * math.sin(angle)
    v = -x * math.sin(angle) + y * math.cos(angle)
    if kind == 0:
        field = (torch.sin(u * pitch * 2) * 4).tanh()
    elif kind == 1:
        field = (torch.sin(u * pitch) * torch.sin(v * pitch) * 8).tanh()
    elif kind == 2:
        cell = torch.stack([u, v]) * pitch / 2
        field = ((0.3 - (cell - cell.round()).norm(dim=0)) * 12).tanh()
    else:
        field = torch.zeros(size, size)
        for octave in range(_integer(g, 1, 4)):
            cells = 2 * 2**octave
            noise = torch.randn(1, 1, cells, cells, generator=g)
            upsampled = F.interpolate(noise, (size, size), mode="bicubic", align_corners=False)[0, 0]
            field = field + upsampled * 0.6**octave
        if kind == 4:
            field = (field * 6).tanh()
    low = _colour(g)
    high = torch.lerp(low, _colour(g), contrast * _uniform(g))  # from a flat surface to a stark pattern
    shade = torch.lerp(_colour(g), _colour(g), 0.5)
    mixed = torch.lerp(low[:, None, None], high[:, None, None], field.clamp(-1, 1) * 0.5 + 0.5)
    return (mixed + 0.35 * shade[:, None, None] * (x * _uniform(g, -1, 1) + y * _uniform(g, -1, 1))).clamp(
        -1, 1
    )


def _sprite_path(g: torch.Generator, time: Tensor, motion: float) -> tuple[Tensor, Tensor, Tensor]:
    """A quadratic Bezier path; centre [t, 2], angle [t] in radians, scale [t]."""
    start = torch.rand(2, generator=g) * 1.6 - 0.8
    direction = _uniform(g, 0, 2 * math.pi)
    length = motion * _uniform(g, 0.1, 1.3)
    end = start + length * torch.tensor([math.cos(direction), math.sin(direction)])
    end = torch.where(end.abs() > 0.9, start - (end - start), end).clamp(-1.1, 1.1)
    bend = torch.randn(2, generator=g) * 0.3 * length
    s = time[:, None]
    centre = (1 - s) ** 2 * start + 2 * s * (1 - s) * ((start + end) / 2 + bend) + s**2 * end
    angle = _uniform(g, 0, 2 * math.pi) + motion * _uniform(g, -1.2, 1.2) * time
    scale = _uniform(g, 0.35, 0.75) * (motion * _uniform(g, -0.35, 0.35) * time).exp()
    return centre, angle, scale


def _camera_path(g: torch.Generator, time: Tensor, motion: float) -> tuple[Tensor, Tensor, Tensor]:
    wide = _uniform(g) ** 2 * motion  # many cameras nearly still, some wide
    direction = _uniform(g, 0, 2 * math.pi)
    sweep = torch.tensor([math.cos(direction), math.sin(direction)]) * wide * 0.7
    ease = time + _uniform(g, -0.5, 0.5) * time * (1 - time)
    centre = (ease[:, None] - 0.5) * sweep
    angle = (ease - 0.5) * wide * _uniform(g, -0.6, 0.6)
    scale = ((ease - 0.5) * wide * _uniform(g, -0.5, 0.5)).exp()
    return centre, angle, scale


def _local(grid: Tensor, centre: Tensor, angle: Tensor, scale: Tensor) -> Tensor:
    """Frame coordinates [H, W, 2] in each frame's own layer coordinates [t, H, W, 2]."""
    moved = grid[None] - centre[:, None, None]
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    x, y = moved.unbind(-1)
    return torch.stack([x * cos + y * sin, -x * sin + y * cos], dim=-1) / scale[:, None, None, None]


def _shape(g: torch.Generator, local: Tensor) -> Tensor:
    """Signed distance [t, H, W] to a disc, rounded box, star or ring of about unit size; negative inside."""
    kind = _integer(g, 0, 3)
    radius = local.norm(dim=-1)
    if kind == 0:
        return radius - 1
    if kind == 1:
        half = torch.tensor([1.0, _uniform(g, 0.35, 1.0)])
        outside = local.abs() - (half - 0.15)
        return outside.clamp(min=0).norm(dim=-1) + outside.amax(dim=-1).clamp(max=0) - 0.15
    if kind == 2:
        points, depth = _integer(g, 3, 7), _uniform(g, 0.05, 0.25)
        return radius - (0.8 + depth * torch.cos(points * torch.atan2(local[..., 1], local[..., 0])))
    return (radius - 0.75).abs() - _uniform(g, 0.15, 0.3)


def _sample(texture: Tensor, local: Tensor) -> Tensor:
    """Texture [3, h, w] at coordinates [t, H, W, 2] (-1..1 spans it, mirrored beyond) -> [t, 3, H, W]."""
    source = texture[None].expand(local.shape[0], -1, -1, -1)
    return F.grid_sample(source, local, mode="bilinear", padding_mode="reflection", align_corners=False)
