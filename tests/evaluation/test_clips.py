"""Clips: read one at a time, brought to one size, ranked by motion."""

from __future__ import annotations

import pytest

pytest.importorskip("cv2", reason="needs the extra 'eval'")

import numpy as np
import torch

from vfi_core.evaluation.clips import Clip, ClipSet, fit, thirds


def test_a_clip_is_read_when_it_is_asked_for_and_not_before():
    read: list[str] = []

    def film(name: str) -> np.ndarray:
        read.append(name)
        return np.full((3, 16, 24, 3), 255, np.uint8)

    clips = ClipSet("some", "toys", ("a", "b", "c"), film, size=(8, 8))
    assert len(clips) == 3 and read == []
    assert clips[1].frames.shape == (3, 8, 8, 3) and clips[1].frames.max() == 1
    walk = iter(clips)
    assert next(walk).name == "a" and read == ["b", "b", "a"]


def test_frames_are_cut_to_the_aspect_around_their_centre_and_averaged():
    picture = np.zeros((1, 8, 12, 3), np.uint8)
    picture[:, :, 2:10] = np.arange(8, dtype=np.uint8)[None, None, :, None] * 10
    assert fit(picture, (4, 4))[0, 0, :, 0].tolist() == [5, 25, 45, 65]
    assert fit(picture, (4, 6)).shape == (1, 4, 6, 3)
    assert fit(picture.transpose(0, 2, 1, 3), (4, 4))[0, :, 0, 0].tolist() == [5, 25, 45, 65]
    assert fit(picture, None) is picture and fit(picture, (8, 12)) is picture


def test_thirds_are_by_rank_and_differ_in_number_by_one_at_most():
    assert thirds([5.0, 1.0, 9.0]) == ["medium", "small", "large"]
    counted = [thirds(list(range(10))).count(third) for third in ("small", "medium", "large")]
    assert sum(counted) == 10 and max(counted) - min(counted) == 1
    assert thirds([2.0]) == ["small"] and thirds([]) == []


def test_motion_is_the_speed_of_a_pan():
    noise = torch.rand((1, 3, 8, 24), generator=torch.Generator().manual_seed(0))
    wide = torch.nn.functional.interpolate(noise, (32, 96), mode="bicubic").clamp(0, 1)[0].permute(1, 2, 0)
    still, slow, fast = (
        Clip(str(v), torch.stack([wide[:, :32], wide[:, v : v + 32]])).motion for v in (0, 1, 4)
    )
    assert still == 0 and still < slow < fast
