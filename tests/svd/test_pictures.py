import pytest
import torch

from tests.svd.toys import toy_svd
from vfi_core.decoding import OVERLAP, WINDOW
from vfi_core.svd.pictures import decode, embed, encode


@torch.no_grad()
def test_latents_are_the_vaes_mode_unscaled_one_picture_at_a_time():
    pictures = torch.rand(3, 3, 64, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = encode(toy_svd(), pictures)
    assert latents.shape == (3, 4, 8, 16)
    assert torch.equal(latents[1:2], toy_svd().vae.encode(pictures[1:2]).latent_dist.mode())
    last = pictures.to(memory_format=torch.channels_last)
    assert torch.equal(encode(toy_svd(), last), latents)  # whatever way they lie in memory
    torch.testing.assert_close(encode(toy_svd(), pictures, at_once=2), latents, rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 7, WINDOW])
def test_a_short_segment_is_decoded_in_one_piece(frames):
    latents = torch.randn(frames, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    whole = toy_svd().vae.decode(latents, num_frames=frames).sample.clamp(-1, 1)
    assert torch.equal(decode(toy_svd(), latents), whole)


@torch.no_grad()
def test_a_long_segment_is_decoded_in_fixed_windows_that_see_their_neighbours():
    latents = torch.randn(WINDOW + 6, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    decoded = decode(toy_svd(), latents)
    assert decoded.shape == (WINDOW + 6, 3, 64, 64)
    tail = toy_svd().vae.decode(latents[WINDOW - OVERLAP :], num_frames=6 + OVERLAP).sample.clamp(-1, 1)
    assert torch.equal(decoded[WINDOW:], tail[OVERLAP:])


@torch.no_grad()
def test_an_embedding_sees_eight_bits_and_no_more():
    picture = (torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(2)) * 255).round() / 127.5 - 1
    nudged = (picture + 0.3 / 255).clamp(-1, 1)
    assert torch.equal(embed(toy_svd().image_encoder, picture), embed(toy_svd().image_encoder, nudged))
    assert not torch.equal(
        embed(toy_svd().image_encoder, picture), embed(toy_svd().image_encoder, picture.flip(3))
    )
