"""The bundled scenes: large, sharp, nearly plain shapes on curved paths that pass in front of each other.

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
    """A ball rolls across in front of a turning tile that gives way."""
    picture = _stripes(_layer(grid, (0.1 * (t - 0.5), 0), 0.5), 1.6, "#7a3b2e", "#824234")
    tile = _layer(grid, _path(t, (0.1, -0.2), (0.05, -0.14), (0.0, -0.08)), 0.3 + 0.2 * t, 0.54)
    picture = _paint(picture, grid, _box(tile) * 0.54, _stripes(tile, 1.6, "#3a4a86", "#415190"))
    ball = _layer(grid, _path(t, (-0.32, 0.3), (0.0, 0.14), (0.32, 0.3)), -0.3 + 0.6 * t, 0.46)
    return _paint(picture, grid, _disc(ball) * 0.46, _stripes(ball, 2.2, "#e8c468", "#e0bb5e"))


def _orbit(grid: Tensor, t: float) -> Tensor:
    """A moon goes round a planet and covers part of it, while the camera rolls."""
    view = _layer(grid, (0.0, 0.0), 0.2 * (t - 0.5))
    picture = _stripes(_layer(view, (0.3, 0.2), 0.9), 1.6, "#26304f", "#2c3759")
    planet = _layer(view, (0.0, -0.16), -0.3, 0.6)
    picture = _paint(picture, grid, _disc(planet) * 0.6, _stripes(planet, 2.4, "#3f9c93", "#469f97"))
    angle = math.pi * (0.66 - 0.32 * t)
    moon = _layer(view, (0.6 * math.cos(angle), -0.12 + 0.5 * math.sin(angle)), 0.5 * t, 0.5)
    return _paint(picture, grid, _disc(moon) * 0.5, _stripes(moon, 1.6, "#e8c468", "#e0bb5e"))


def _dive(grid: Tensor, t: float) -> Tensor:
    """The camera dives at a turning star in front of a ring, which moves aside."""
    zoom = math.exp(0.25 * t)
    view = _layer(grid, (0.0, 0.0), 0.1 * t, zoom)
    picture = _checks(_layer(view, (0.2, -0.1), 0.4), 1.1, "#26304f", "#2c3759")
    ring = _layer(view, _path(t, (0.3, -0.26), (0.34, -0.18), (0.38, -0.12)), 0.0, 0.5)
    picture = _paint(picture, grid, _ring(ring) * 0.5 * zoom, _stripes(ring, 2.0, "#3f9c93", "#469f97"))
    star = _layer(view, _path(t, (-0.32, 0.26), (-0.28, 0.08), (-0.1, 0.06)), 0.3 * t, 0.52)
    return _paint(picture, grid, _star(star) * 0.52 * zoom, _stripes(star, 2.0, "#ef8a62", "#e88058"))


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


def _paint(picture: Tensor, grid: Tensor, distance: Tensor, colour: Tensor) -> Tensor:
    """``colour`` where ``distance`` (in frame units) is negative, its edge antialiased."""
    pixel = 2 / grid.shape[0]
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
