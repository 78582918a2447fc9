"""FID and FVD on stand-in networks whose features are known, and files that are no networks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("cv2", reason="needs the extra 'eval'")
pytest.importorskip("torchmetrics", reason="needs the extra 'eval'")

import numpy as np
import torch

from vfi_core.evaluation import frechet


def films(seed: int, n: int = 6, brighter: int = 0) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 100, (9, 4, 4, 3), dtype=np.uint8) + np.uint8(brighter) for _ in range(n))


def mean_colour(x: torch.Tensor) -> torch.Tensor:
    """[t, 3, H, W] -> [t, 3], or [1, 3, t, H, W] -> [1, 3]."""
    return x.float().flatten(2).mean(2)


@pytest.mark.parametrize("whole", [False, True])
def test_a_set_is_at_no_distance_from_itself_and_a_shift_counts_squared(whole: bool):
    assert frechet.distance(films(0), films(0), mean_colour, whole) == pytest.approx(0, abs=1e-3)
    # equal clouds whose means are 10 apart in three channels
    shifted = frechet.distance(films(0), films(0, brighter=10), mean_colour, whole)
    assert shifted == pytest.approx(3 * 10**2, rel=1e-3)


def test_the_given_frames_count_for_films_and_not_for_frames():
    seen = []

    def count(x: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(x.shape))
        return mean_colour(x)

    frechet.distance(films(0, 2), films(1, 2), count, whole=False)
    frechet.distance(films(0, 2), films(1, 2), count, whole=True)
    assert seen == [(7, 3, 4, 4)] * 4 + [(1, 3, 9, 4, 4)] * 4


class StandIn(torch.nn.Module):
    """The mean colour of frames, or of films rescaled by I3D's own rules."""

    def forward(
        self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
    ):
        return (x.float() / 255 if rescale else x.float()).flatten(2).mean(2)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_networks_are_torchscript_files(tmp_path: Path):
    path = tmp_path / "net.pt"
    torch.jit.script(StandIn()).save(str(path))
    cpu, (film,) = torch.device("cpu"), films(0, 1)
    frames = torch.from_numpy(film).permute(0, 3, 1, 2)
    assert torch.allclose(frechet.load_inception(path, cpu)(frames), mean_colour(frames))
    whole = frames.transpose(0, 1)[None]
    assert torch.allclose(frechet.load_i3d(path, cpu)(whole), mean_colour(whole) / 255)


def test_what_is_no_network_is_refused(tmp_path: Path):
    (tmp_path / "text.pt").write_text("no network")
    for load, option in ((frechet.load_inception, "--fid-weights"), (frechet.load_i3d, "--fvd-weights")):
        with pytest.raises(ValueError, match=f"{option} .*text.pt is no TorchScript"):
            load(tmp_path / "text.pt", torch.device("cpu"))
        with pytest.raises(ValueError, match=f"{option} .*gone.pt is not there"):
            load(tmp_path / "gone.pt", torch.device("cpu"))
