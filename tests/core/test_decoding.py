"""Contract: every frame is decoded once, among the same neighbours; its colours can be pulled in place."""

from __future__ import annotations

import pytest
import torch

from vfi_core.decoding import OVERLAP, WINDOW, decode_windows, lock_colours


@pytest.mark.parametrize("frames", [1, 2, 7, WINDOW, WINDOW + 1, 3 * WINDOW + 5])
def test_decode_windows_keep_every_frame_once_and_see_its_neighbours(frames: int):
    kept = []
    for seen, keep in decode_windows(frames):
        indices = list(range(frames))[seen][keep]
        kept += indices
        assert seen.start == max(0, indices[0] - OVERLAP) and seen.stop == min(
            frames, indices[-1] + 1 + OVERLAP
        )
    assert kept == list(range(frames))


def test_locked_colours_are_those_of_the_keyframes():
    first, last = torch.rand(8, 8, 3), torch.rand(8, 8, 3)
    film = torch.lerp(first, last, torch.linspace(0, 1, 5).view(-1, 1, 1, 1)) * 0.5 + 0.2
    locked = lock_colours(film, first, last)
    assert torch.allclose(locked[0], first, atol=1e-4) and torch.allclose(locked[-1], last, atol=1e-4)
    untouched = torch.lerp(first, last, torch.linspace(0, 1, 5).view(-1, 1, 1, 1))
    assert torch.allclose(lock_colours(untouched, first, last)[[0, -1]], untouched[[0, -1]], atol=1e-4)
