"""The bundled scenes: large, sharp, patterned shapes on wide, curved paths that pass in front of each other.

Every frame is a formula of the time alone, so the film between two keyframes is known exactly. All arithmetic
is float64: another machine's last digit does not reach the eight bits of a pixel. The PNGs beside this file
are written by `python -m vfi_core.samples.draw`; `orbit.mp4` is truth("orbit", 4) at four frames a second.

Legend: t in 0..1 over the film, H W pixels; x right, y down, both -1..1 over the frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

SIZE = 256  # of the bundled pictures


def truth(name: str, frames: int, size: int = SIZE) -> Tensor:
    """The scene's whole film, keyframes included, [frames, size, size, 3] uint8.

    Raises ValueError for a name that is no scene or fewer than two frames.
    """
    if name not in SCENES:
        raise ValueError(f"unknown sample '{name}' (bundled: {', '.join(sorted(SCENES))})")
    if frames < 2:
        raise ValueError(f"a film of {frames} frames has no first and last one; ask for 2 or more")
    axis = (torch.arange(size, dtype=torch.float64) + 0.5) / size * 2 - 1
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)  # [H, W, 2]
    film = torch.stack([SCENES[name](grid, i / (frames - 1)) for i in range(frames)])
    return (film.clamp(0, 1) * 255).round().to(torch.uint8)


def write(folder: Path) -> None:
    """The first, the middle and the last picture of every scene as PNG files in ``folder``."""
    for name in SCENES:
        for which, picture in zip(("first", "middle", "last"), truth(name, 3), strict=True):
            Image.fromarray(picture.numpy()).save(folder / f"{name}_{which}.png", optimize=True)


def _crossing(grid: Tensor, t: float) -> Tensor:
    """A striped ball rolls across in front of a turning tile that comes down the other way."""
    picture = _stripes(_layer(grid, (0.15 * (t - 0.5), 0), 0.5), 2.2, "#22264b", "#2b3263")
    tile = _layer(grid, _path(t, (0.45, -0.5), (0.06, 0.3), (-0.42, 0.42)), 0.2 + 0.9 * t, 0.36)
    picture = _paint(picture, grid, _box(tile) * 0.36, _checks(tile, 2.6, "#3ec9a7", "#2aa58c"), "#f5f1e3")
    ball = _layer(grid, _path(t, (-0.52, -0.35), (0.1, -0.3), (0.5, 0.45)), -0.5 + 1.2 * t, 0.4)
    return _paint(picture, grid, _disc(ball) * 0.4, _stripes(ball, 4.2, "#ff7a59", "#ffd166"), "#fff6e5")


def _orbit(grid: Tensor, t: float) -> Tensor:
    """A moon goes a quarter round a banded planet and covers part of it, while the camera rolls."""
    turn = 0.5 * (t - 0.5)
    view = _layer(grid, (0.0, 0.0), turn)
    picture = _stripes(_layer(view, (0.3, 0.2), 0.9), 1.6, "#f6e3c5", "#efcfa4")
    planet = _layer(view, (0.0, -0.16), -0.3, 0.46)
    picture = _paint(
        picture, grid, _disc(planet) * 0.46, _stripes(planet, 3.4, "#2f7f93", "#55b3b0"), "#1d4e63"
    )
    angle = math.pi * (0.86 - 0.72 * t)
    centre = (0.58 * math.cos(angle), -0.1 + 0.5 * math.sin(angle))
    moon = _layer(view, centre, 1.1 * t, 0.31)
    return _paint(picture, grid, _disc(moon) * 0.31, _checks(moon, 2.2, "#e4572e", "#f08a4b"), "#7a2318")


def _dive(grid: Tensor, t: float) -> Tensor:
    """The camera dives at a turning star in front of a ring, which leaves sideways."""
    zoom = math.exp(0.4 * t)
    view = _layer(grid, (0.0, 0.0), 0.35 * t, zoom)
    picture = _checks(_layer(view, (0.2, -0.1), 0.4), 1.5, "#5b2a6e", "#6d3a82")
    ring = _layer(view, _path(t, (0.25, -0.2), (0.4, -0.05), (0.5, 0.05)), 0.0, 0.4)
    picture = _paint(picture, grid, _ring(ring) * 0.4 * zoom, _stripes(ring, 3.0, "#f7b801", "#fbd65d"), None)
    star = _layer(view, _path(t, (-0.32, 0.28), (-0.2, -0.1), (0.02, -0.06)), 1.0 * t, 0.42)
    return _paint(
        picture, grid, _star(star) * 0.42 * zoom, _stripes(star, 3.0, "#ef5da8", "#f9a1c9"), "#fff3fa"
    )


SCENES: dict[str, Callable[[Tensor, float], Tensor]] = {"crossing": _crossing, "dive": _dive, "orbit": _orbit}


def _path(
    t: float, a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]
) -> tuple[float, float]:
    """The quadratic Bezier curve from a to c that b pulls at."""
    weights = ((1 - t) ** 2, 2 * t * (1 - t), t * t)
    return (
        sum(w * p[0] for w, p in zip(weights, (a, b, c), strict=True)),
        sum(w * p[1] for w, p in zip(weights, (a, b, c), strict=True)),
    )


def _layer(grid: Tensor, centre: tuple[float, float], angle: float, scale: float = 1.0) -> Tensor:
    """Frame coordinates [H, W, 2] in the coordinates of a layer that is moved, turned and scaled."""
    x, y = grid[..., 0] - centre[0], grid[..., 1] - centre[1]
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    return torch.stack([x * cos + y * sin, -x * sin + y * cos], dim=-1)


def _paint(picture: Tensor, grid: Tensor, distance: Tensor, colour: Tensor, outline: str | None) -> Tensor:
    """``colour`` where ``distance`` (in frame units) is negative, its edge antialiased, a rim inside it."""
    pixel = 2 / grid.shape[0]
    if outline:
        rim = (0.5 + (distance + 0.07) / pixel).clamp(0, 1)[..., None]
        colour = torch.lerp(colour, _rgb(outline).expand_as(colour), rim)
    return torch.lerp(picture, colour, (0.5 - distance / pixel).clamp(0, 1)[..., None])


def _disc(local: Tensor) -> Tensor:
    return local.norm(dim=-1) - 1


def _ring(local: Tensor) -> Tensor:
    return (local.norm(dim=-1) - 0.78).abs() - 0.22


def _box(local: Tensor) -> Tensor:
    outside = local.abs() - 0.7
    return outside.clamp(min=0).norm(dim=-1) + outside.amax(dim=-1).clamp(max=0) - 0.2


def _star(local: Tensor) -> Tensor:
    return local.norm(dim=-1) - 0.85 - 0.15 * torch.cos(5 * torch.atan2(local[..., 1], local[..., 0]))


def _stripes(local: Tensor, pitch: float, dark: str, light: str) -> Tensor:
    return _between((4 * torch.sin(pitch * local[..., 0])).tanh(), dark, light)


def _checks(local: Tensor, pitch: float, dark: str, light: str) -> Tensor:
    return _between((8 * torch.sin(pitch * local).prod(dim=-1)).tanh(), dark, light)


def _between(field: Tensor, dark: str, light: str) -> Tensor:
    """The two colours mixed by a field of -1..1, [H, W, 3]."""
    return torch.lerp(_rgb(dark), _rgb(light), (field * 0.5 + 0.5)[..., None])


def _rgb(code: str) -> Tensor:
    return torch.tensor([int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)], dtype=torch.float64)


if __name__ == "__main__":
    write(Path(__file__).parent)
