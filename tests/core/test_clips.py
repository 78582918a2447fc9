"""Contract: whatever the number of in-betweens, the model draws clips of a length it knows, and every frame
of a segment is drawn once, between ends that are there by then.
"""

from __future__ import annotations

import pytest
import torch

from vfi_core.clips import Clip, draw_clips, split_into_clips


@pytest.mark.parametrize("longest", [3, 4, 5, 7, 14, 25])
def test_every_frame_is_drawn_once_between_frames_that_are_there(longest: int):
    for steps in range(2, 200):
        known = {0, steps}
        for number, clip in enumerate(split_into_clips(steps, longest)):
            assert clip.number == number and clip.stride >= 1
            assert {clip.stops[0], clip.stops[-1]} <= known
            between = set(clip.stops[1:-1])
            assert between and not between & known and list(clip.stops) == sorted(clip.stops)
            known |= between
        assert known == set(range(steps + 1))


@pytest.mark.parametrize("longest", [3, 7, 14, 25])
def test_a_clip_is_never_longer_than_known_and_more_than_half_as_long(longest: int):
    for steps in range(2, 200):
        for clip in split_into_clips(steps, longest):
            assert longest / 2 < clip.length <= longest


def test_up_to_23_in_betweens_svd_xt_draws_between_svd_s_14_frames_and_its_own_25():
    lengths = {n: [clip.length for clip in split_into_clips(n + 1, 25)] for n in range(1, 24)}
    assert all(len(found) == 1 and 14 <= found[0] <= 25 for found in lengths.values())
    assert lengths[5] == [25] and lengths[12] == [14] and lengths[23] == [25]


@pytest.mark.parametrize("trained", [7, 14, 25])
def test_as_many_frames_as_trained_are_one_clip_shown_whole(trained: int):
    assert split_into_clips(trained - 1, trained) == [Clip(tuple(range(trained)), 1, 0)]


def test_a_longer_segment_is_cut_into_the_fewest_parts():
    clips = split_into_clips(48, 25)
    assert [(clip.stops[0], clip.stops[-1], clip.length) for clip in clips] == [
        (0, 48, 25),
        (0, 24, 25),
        (24, 48, 25),
    ]
    assert clips[0].stops == (0, 24, 48)
    assert len(split_into_clips(24 * 24, 25)) == 1 + 24
    assert len(split_into_clips(24 * 25, 25)) == 1 + 2 * (1 + 13)  # 25 parts are more than one clip shows


def test_thinned_frames_lie_evenly_and_cuts_are_the_next_clips_ends():
    seen = []

    def draw(clip: Clip, first: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        seen.append((clip.length, first.flatten()[0].item(), last.flatten()[0].item()))
        return torch.lerp(first, last, torch.linspace(0, 1, clip.length).view(-1, 1, 1, 1))

    for steps in (2, 5, 6, 8, 13, 50):
        first, last = torch.zeros(1, 1, 3), torch.full((1, 1, 3), float(steps))
        frames = draw_clips(split_into_clips(steps, 7), first, last, draw)
        assert torch.equal(frames[0], first) and torch.equal(frames[-1], last)
        wanted = torch.arange(steps + 1.0)
        # cuts lie on whole frames, half a frame beside the even places, on either of two levels of them
        assert (frames[:, 0, 0, 0] - wanted).abs().max() <= (1e-4 if steps <= 6 else 1.0)
    assert seen[0] == (7, 0.0, 2.0)


@pytest.mark.parametrize(
    ("steps", "longest", "words"), [(1, 25, "nothing to draw"), (6, 2, "nothing between")]
)
def test_what_cannot_be_drawn_is_refused(steps: int, longest: int, words: str):
    with pytest.raises(ValueError, match=words):
        split_into_clips(steps, longest)
