"""The methods to beat, on films whose answer is known, and on stored figures where the data is at hand."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

pytest.importorskip("cv2", reason="needs the extra 'eval'")

import numpy as np
import torch

from vfi_core.evaluation import baselines
from vfi_core.evaluation.baselines import (
    BASELINES,
    Interpolator,
    dis_flow_warp,
    linear,
    minterpolate,
    nearest,
)
from vfi_core.evaluation.clips import as_floats
from vfi_core.evaluation.layouts import Wanted, open_sets
from vfi_core.evaluation.metrics import eight_bits, flows, psnr, score
from vfi_core.evaluation.perceptual import flip

DATA = os.environ.get("SVD_VFI_EVAL_DATA")
DAVIS7 = os.environ.get("SVD_VFI_DAVIS7")


def pan(t: int, step: int, size: int = 64) -> torch.Tensor:
    """A film [t, size, size, 3] of smooth noise that moves ``step`` pixels a frame."""
    noise = torch.rand((1, 3, 8, 20), generator=torch.Generator().manual_seed(0))
    wide = torch.nn.functional.interpolate(noise, (size, 160), mode="bicubic").clamp(0, 1)[0].permute(1, 2, 0)
    return torch.stack([wide[:, i * step : i * step + size] for i in range(t)])


def test_linear_is_exact_on_a_cross_fade():
    first, last = torch.rand(2, 8, 8, 3, generator=torch.Generator().manual_seed(0))
    film = torch.stack([torch.lerp(first, last, i / 6) for i in range(7)])
    assert torch.allclose(linear(first, last, 5), film[1:-1], atol=1e-6)


def test_nearest_copies_the_nearer_frame_and_the_first_in_the_middle():
    frames = nearest(torch.zeros(2, 2, 3), torch.ones(2, 2, 3), 5)
    assert frames[:, 0, 0, 0].tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("name", BASELINES)
def test_every_method_returns_as_many_frames_as_asked_for(name: str):
    first, last = torch.rand(2, 32, 48, 3, generator=torch.Generator().manual_seed(1))
    for n in (1, 4):
        frames = BASELINES[name][1](first, last, n)
        ends = 2 if name == "minterpolate" else 0
        assert frames.shape == (n + ends, 32, 48, 3) and frames.dtype == torch.float32


@pytest.mark.parametrize("name", BASELINES)
def test_a_film_at_rest_stays_at_rest(name: str):
    still = pan(1, 0)[0]
    film = BASELINES[name][1](still, still, 3)
    # 8 bits, to YCbCr and back: 2.47 of 255 measured
    assert torch.allclose(film, still.expand_as(film), atol=3 / 255 if name == "minterpolate" else 1e-6)


@pytest.mark.parametrize("follow", [dis_flow_warp, lambda *a: minterpolate(*a)[1:-1]])
def test_motion_is_followed_where_a_cross_fade_ghosts(follow: Interpolator):
    film = pan(5, 2)
    inner = film[1:-1, 16:-16, 16:-16]
    warped = follow(film[0], film[-1], 3)[:, 16:-16, 16:-16]
    faded = linear(film[0], film[-1], 3)[:, 16:-16, 16:-16]
    assert psnr(warped, inner).min() > psnr(faded, inner).max() + 6  # 8 and more measured


def test_what_minterpolate_cannot_do_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(baselines, "filters_available", {"scale"})
    with pytest.raises(ValueError, match="has no minterpolate"):
        minterpolate(torch.zeros(32, 32, 3), torch.zeros(32, 32, 3), 1)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="32 pixels or more a side, not 40x16"):
        minterpolate(torch.zeros(16, 40, 3), torch.zeros(16, 40, 3), 1)


@pytest.mark.skipif(not DATA, reason="SVD_VFI_EVAL_DATA names no folder with the evaluation clips")
@pytest.mark.parametrize("frames", [7, 9])
def test_stored_figures_are_reproduced(frames: int):
    """Prints ours beside the stored ones (pytest -s): means over the clips."""
    root = Path(DATA or "")
    stored = json.loads((root / "baselines.json").read_text())[str(frames)]
    clips = list(open_sets(root, Wanted(frames))[0])
    of_clips = [flows(clip.frames) for clip in clips]
    names = {"psnr": "psnr", "ssim": "ssim", "sharpness": "sharp", "tof": "tof", "flip": "flip"}
    for key, (_, method) in BASELINES.items():
        apart = {
            ours: ([], [np.mean(stored[key][clip.name][theirs]) for clip in clips])
            for ours, theirs in names.items()
        }
        for clip, of_clip in zip(clips, of_clips, strict=True):
            film = eight_bits(method(clip.frames[0], clip.frames[-1], frames - 2))
            scores = score(film, clip.frames, of_clip, flip=flip)
            for k in apart:
                apart[k][0].append(getattr(scores, k))
        print(frames, key, {k: f"{np.mean(a):.4f} (stored {np.mean(b):.4f})" for k, (a, b) in apart.items()})
        worst = {k: np.abs(np.subtract(a, b)).max() for k, (a, b) in apart.items()}
        if key == "dis":  # the stored warp is not described anywhere: only the level is comparable
            assert worst["psnr"] < 0.3
            continue
        assert worst["psnr"] < 1e-3 and worst["ssim"] < 1e-4 and worst["sharpness"] < 1e-3
        assert worst["flip"] < 1e-4
        # DIS itself differs a little between OpenCV 4 and 5: 0.04 px of 5 to 20 measured
        assert worst["tof"] < 0.1


@pytest.mark.skipif(not DAVIS7, reason="SVD_VFI_DAVIS7 names no folder with the 50 stored DAVIS-7 pairs")
def test_the_published_films_have_their_stored_scores():
    """PSNR over all seven frames at 256x256, means over the clips, to 0.02 dB."""
    (clips,) = open_sets(Path(DAVIS7 or ""), Wanted())
    stored = {"RIFE": 20.42, "FILM": 20.65, "LDMVFI": 19.71, "AMT": 21.09, "VIDIM": 19.98}
    values: dict[str, list[float]] = {}
    for clip in clips:
        truth = clip.frames[1:-1]
        films = {name: as_floats(clips.films[f"{name} (published)"](clip.name)) for name in stored}
        for key in ("nearest", "linear"):
            films[key] = eight_bits(BASELINES[key][1](clip.frames[0], clip.frames[-1], 7))
        for name, film in films.items():
            values.setdefault(name, []).append(float(psnr(film, truth).mean()))
    means = {name: float(np.mean(some)) for name, some in values.items()}
    print(means)
    assert means == pytest.approx(stored | {"nearest": 17.57, "linear": 18.54}, abs=0.02)
