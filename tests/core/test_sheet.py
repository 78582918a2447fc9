"""The contact sheet: every frame is on it, in its place, and the keyframes are seen at once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vfi_core.sheet import GROUND, MARK, contact_sheet


def film(n: int, height: int = 16, width: int = 24) -> Tensor:
    return torch.rand(n, height, width, 3, generator=torch.Generator().manual_seed(n))


def test_every_frame_stands_in_its_place_and_the_known_ones_are_framed():
    frames = film(10)
    sheet = contact_sheet(frames, [0, 9])
    assert sheet.shape == (2 * 20 + 4, 9 * 28 + 4, 3)
    for i, frame in enumerate(frames):
        y, x = i // 9 * 20 + 4, i % 9 * 28 + 4
        assert torch.equal(sheet[y : y + 16, x : x + 24], frame), i
        rim = MARK if i in (0, 9) else GROUND
        assert torch.equal(sheet[y - 1, x + 5], torch.tensor(rim)), i


def test_two_films_stand_frame_under_frame_in_every_line():
    upper, lower = film(5), film(5) * 0.5
    sheet = contact_sheet(upper, columns=3, below=lower)
    assert sheet.shape == (4 * 20 + 4, 3 * 28 + 4, 3)
    for i in range(5):
        y, x = i // 3 * 40 + 4, i % 3 * 28 + 4
        assert torch.equal(sheet[y : y + 16, x : x + 24], upper[i])
        assert torch.equal(sheet[y + 20 : y + 36, x : x + 24], lower[i])


def test_large_frames_are_shrunk_and_keep_their_shape():
    assert contact_sheet(film(2, 512, 1024)).shape == (128 + 8, 2 * 260 + 4, 3)
    flat = contact_sheet(torch.full((1, 300, 300, 3), 0.25))
    assert torch.allclose(flat[4:260, 4:260], torch.tensor(0.25), atol=1e-6)


def test_one_look_at_each_frame_is_enough():
    assert torch.equal(contact_sheet(frame for frame in film(4)), contact_sheet(film(4)))


@pytest.mark.parametrize(
    ("frames", "given", "message"),
    [
        (0, {}, "no frames"),
        (3, {"below": film(4)}, "3 and 4 frames"),
        (3, {"columns": 0}, "0 columns"),
    ],
)
def test_what_makes_no_sheet_is_refused_in_a_sentence(frames: int, given: dict, message: str):
    with pytest.raises(ValueError, match=message):
        contact_sheet(film(frames), **given)
