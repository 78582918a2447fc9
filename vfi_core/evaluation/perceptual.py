"""Distances that follow the eye: FLIP, and LPIPS where the weights of its backbone are at hand.

Legend: t frames, H W pixels; pictures are RGB, float 0..1. Nothing is ever downloaded, and no network with
random weights ever measures anything.
"""

from __future__ import annotations

import hashlib
import os
from importlib.resources import as_file, files
from pathlib import Path

import torch
from torch import Tensor, nn

from .metrics import FrameMetric

DIGEST = "7be5be79"  # SHA-256, its beginning: torchvision's files carry it in their names
ALEXNET = f"alexnet-owt-{DIGEST}.pth"
CHANNELS = (64, 192, 384, 256, 256)
SMALLEST = 31  # pixels: of smaller pictures AlexNet leaves nothing


def flip(prediction: Tensor, truth: Tensor) -> Tensor:
    """FLIP of each frame, [t], 0 (equal) to 1 (Andersson et al., 2020), by its authors' package.

    Their defaults: pictures for a normal screen, seen at 67 pixels per degree.
    """
    import flip_evaluator

    pairs = zip(truth.numpy(), prediction.numpy(), strict=True)
    means = [flip_evaluator.evaluate(a, b, "LDR", applyMagma=False)[1] for a, b in pairs]
    return torch.tensor(means, dtype=torch.float64)


def find_backbone(given: Path | None) -> Path | None:
    """The file of AlexNet's weights: the one given, else the one in torch hub's cache; None without.

    Raises ValueError where the given one is not there.
    """
    if given is not None:
        if not given.is_file():
            raise ValueError(f"--lpips-weights {given} is not there; give AlexNet's weights ({ALEXNET})")
        return given
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    home = Path(os.environ.get("TORCH_HOME") or Path(cache) / "torch")
    path = home / "hub" / "checkpoints" / ALEXNET
    return path if path.is_file() else None


def load_lpips(path: Path, device: torch.device | None = None) -> FrameMetric:
    """LPIPS 0.1 with AlexNet (Zhang et al., 2018, eq. 1) as a function of frames.

    path  AlexNet's weights as torchvision publishes them; the five linear heads come with torchmetrics
    Raises ValueError for other weights.
    """
    if not hashlib.sha256(path.read_bytes()).hexdigest().startswith(DIGEST):
        raise ValueError(f"{path} is not AlexNet as torchvision publishes it; give {ALEXNET}, unchanged")
    backbone, taps = alexnet()
    state = torch.load(path, map_location="cpu", weights_only=True)
    backbone.load_state_dict(
        {k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")}
    )
    with as_file(files("torchmetrics") / "functional/image/lpips_models/alex.pth") as heads:
        lines = torch.load(heads, map_location="cpu", weights_only=True)
    weights = [lines[f"lin{i}.model.1.weight"].to(device) for i in range(len(taps))]
    return lpips(backbone.eval().requires_grad_(False).to(device), taps, weights)


def alexnet() -> tuple[nn.Sequential, tuple[int, ...]]:
    """AlexNet's features without weights (Krizhevsky, 2014), and the five layers LPIPS looks at."""
    a, b, c, d, e = CHANNELS
    layers = [
        *(nn.Conv2d(3, a, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(a, b, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(b, c, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(c, d, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(d, e, 3, padding=1), nn.ReLU()),
    ]
    return nn.Sequential(*layers), (1, 4, 7, 9, 11)


def lpips(backbone: nn.Sequential, taps: tuple[int, ...], heads: list[Tensor]) -> FrameMetric:
    """The distance of unit-length features, squared, weighed by the heads and averaged over the picture.

    taps   layers of the backbone whose features count
    heads  a weight [1, c, 1, 1] for the channels of each
    """
    shift, scale = (torch.tensor(v).view(3, 1, 1) for v in ((-0.03, -0.088, -0.188), (0.458, 0.448, 0.45)))

    def features(frame: Tensor) -> list[Tensor]:  # [H, W, 3] -> [1, c, h, w] each
        x = ((frame.float().permute(2, 0, 1) * 2 - 1 - shift) / scale)[None].to(heads[0])
        found = []
        for i, layer in enumerate(backbone):
            x = layer(x)
            if i in taps:
                found.append(x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt())
        return found

    @torch.no_grad()
    def distance(prediction: Tensor, truth: Tensor) -> Tensor:
        if min(truth.shape[1:3]) < SMALLEST:
            raise ValueError(f"LPIPS takes pictures of {SMALLEST} pixels a side; leave it out with --metrics")

        def one(a: Tensor, b: Tensor) -> Tensor:
            pairs = zip(features(a), features(b), heads, strict=True)
            return sum(((x - y).square() * head).sum(1).mean() for x, y, head in pairs).cpu()  # type: ignore

        return torch.stack([one(a, b) for a, b in zip(prediction, truth, strict=True)]).double()

    return distance
