import pytest
import torch

from vfi_core.keyframes import Keyframes, blend_known, concat_latent


def frames(k: int) -> torch.Tensor:
    return torch.arange(1.0, k + 1).view(k, 1, 1, 1).expand(k, 4, 2, 3)


def test_hint_holds_each_keyframe_at_its_position_and_zeros_elsewhere():
    keyframes = Keyframes(frames(3), (0, 2, 5), 7)
    assert keyframes.hint.shape == (7, 5, 2, 3)
    assert keyframes.known[:, 0, 0, 0].tolist() == [1, 0, 2, 0, 0, 3, 0]
    assert keyframes.mask[:, 0, 0, 0].tolist() == [1, 0, 1, 0, 0, 1, 0]
    assert torch.equal(keyframes.hint, torch.cat([keyframes.known, keyframes.mask], dim=1))
    assert (keyframes.first, keyframes.last) == (0, 5)


def test_a_hint_reversed_in_time_is_the_hint_of_the_reversed_keyframes():
    forward = Keyframes(frames(3), (0, 2, 6), 7)
    backward = Keyframes(frames(3).flip(0), (0, 4, 6), 7)
    assert torch.equal(forward.hint.flip(0), backward.hint)


@pytest.mark.parametrize(
    ("k", "positions", "sentence"),
    [
        (2, (0, 25), "keyframe position 25 is outside a 25-frame clip (use 0..24)"),
        (2, (3, 3), "must increase without repeats"),
        (2, (5, 1), "must increase without repeats"),
        (2, (0,), "2 keyframes were given 1 positions"),
        (0, (), "no keyframe was given"),
    ],
)
def test_positions_that_cannot_be_are_refused_in_one_sentence(k, positions, sentence):
    with pytest.raises(ValueError) as error:
        Keyframes(frames(k), positions, 25)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("reading", "expected"),
    [("first", [1, 1, 1, 1, 1]), ("nearest", [1, 1, 1, 2, 2]), ("keyframes", [1, 0, 0, 0, 2])],
)
def test_concat_latent_repeats_the_first_the_nearest_or_holds_each_on_its_own(reading, expected):
    assert concat_latent(frames(2), (0, 4), 5, reading)[:, 0, 0, 0].tolist() == expected


def test_the_nearest_concat_latent_of_one_keyframe_is_svds_own():
    assert torch.equal(
        concat_latent(frames(1), (0,), 5, "nearest"), concat_latent(frames(1), (0,), 5, "first")
    )


def test_blending_an_empty_mask_returns_the_input_exactly():
    x, known = torch.randn(5, 4, 2, 3), torch.randn(5, 4, 2, 3)
    assert torch.equal(blend_known(x, known, torch.zeros(5, 1, 2, 3)), x)
    assert torch.equal(blend_known(x, known, torch.ones(5, 1, 2, 3)), known)


def test_a_clip_turned_round_has_its_frames_in_reverse_order_and_turns_back():
    keyframes = Keyframes(torch.rand(3, 4, 2, 2), (0, 2, 6), 7)
    assert torch.equal(keyframes.turned.hint, keyframes.hint.flip(0))
    assert keyframes.turned.positions == (0, 4, 6)
    assert torch.equal(keyframes.turned.turned.hint, keyframes.hint)


def test_clips_that_share_their_positions_are_each_as_by_itself():
    latents, positions = torch.randn(5, 3, 4, 8, 8, generator=torch.Generator().manual_seed(4)), (0, 2, 6)
    together, each = Keyframes(latents, positions, 7), [Keyframes(clip, positions, 7) for clip in latents]
    assert torch.equal(together.hint, torch.stack([clip.hint for clip in each]))
    assert torch.equal(together.turned.hint, torch.stack([clip.turned.hint for clip in each]))
    for reading in ("first", "nearest", "keyframes"):
        alone = [concat_latent(clip, positions, 7, reading) for clip in latents]
        assert torch.equal(concat_latent(latents, positions, 7, reading), torch.stack(alone))
