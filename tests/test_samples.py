"""The bundled scenes are what their formulas say, and of the kind a first run should show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vfi_core.samples
from vfi_core import media
from vfi_core.cuts import find_cuts
from vfi_core.samples.draw import SCENES, SIZE, truth, write

FOLDER = Path(vfi_core.samples.__file__).parent


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.mode == "RGB"
        return np.array(picture)


# Pixels rather than file bytes: two builds of zlib pack the same picture differently.
def test_the_script_draws_the_bundled_pictures_again_to_the_last_bit(tmp_path: Path):
    write(tmp_path)
    drawn = sorted(path.name for path in tmp_path.iterdir())
    assert drawn == sorted(path.name for path in FOLDER.glob("*.png"))
    for name in drawn:
        assert np.array_equal(pixels(tmp_path / name), pixels(FOLDER / name)), name


@pytest.mark.parametrize("name", SCENES)
def test_the_true_film_begins_and_ends_with_the_bundled_pictures(name: str):
    film = truth(name, 5)
    assert film.shape == (5, SIZE, SIZE, 3) and film.dtype == torch.uint8
    assert np.array_equal(film[0].numpy(), pixels(FOLDER / f"{name}_first.png"))
    assert np.array_equal(film[-1].numpy(), pixels(FOLDER / f"{name}_last.png"))


def test_the_bundled_video_shows_the_true_film():
    frames = media.read_video(FOLDER / "orbit.mp4")
    assert media.read_fps(FOLDER / "orbit.mp4") == 4
    error = (frames.float() - truth("orbit", 4).float()).pow(2).mean((1, 2, 3))
    assert len(frames) == 4 and (error < 255**2 / 10**3.5).all(), error  # 35 dB: H.264 is lossy


@pytest.mark.parametrize("name", SCENES)
def test_a_film_of_more_frames_passes_through_the_frames_of_a_shorter_one(name: str):
    assert torch.equal(truth(name, 9, 32)[::2], truth(name, 5, 32))


@pytest.mark.parametrize("name", SCENES)
def test_the_motion_is_too_wide_for_a_cross_fade(name: str):
    film = truth(name, 3, 64).float()
    fade = (film[0] + film[2]) / 2
    # A cross-fade of these scenes is worse than 20 dB: squared error above 255^2 / 100.
    assert (film[1] - fade).pow(2).mean() > 650


def test_the_scenes_of_the_cut_workflow_are_told_apart():
    pictures = torch.cat([truth("orbit", 2), truth("crossing", 2)]).float() / 255
    assert find_cuts(pictures) == [1]


def test_what_is_no_scene_or_no_film_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match="unknown sample 'moon' .bundled: crossing, dive, orbit"):
        truth("moon", 7)
    with pytest.raises(ValueError, match="a film of 1 frames"):
        truth("orbit", 1)
