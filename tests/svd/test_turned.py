"""Reversed motion in diffusers' U-Net: what is kept, what is changed, and the published method's numbers."""

import copy
from dataclasses import replace
from functools import cache

import pytest
import torch
from safetensors.torch import save_file

from tests.svd.test_interpolate import SETTINGS, pictures
from tests.svd.toys import toy_svd, tuned_unet
from vfi_core.reversal import BLOCK, TUNED, WITNESS, Reversal, keeping, reversing
from vfi_core.svd.interpolate import interpolate
from vfi_core.svd.load import save_single_file
from vfi_core.svd.sample import sample_segment
from vfi_core.svd.settings import Settings
from vfi_core.svd.turned import load_turned
from vfi_core.weights import load_weights

FRAMES = 5
REVERSED = replace(SETTINGS, method="reversed")


def reversal(svd, moved: float = 0.3, original: bool = True) -> Reversal:
    """Tuned from ``svd``."""
    own = svd.unet.state_dict()
    tuned = {
        name: weight
        for name, weight in tuned_unet(svd, moved).items()
        if name == WITNESS or (f".{BLOCK}." in name and name.endswith(tuple(TUNED)))
    }
    return Reversal(tuned, {name: own[name] for name in tuned} if original else {}, name="tuned")


@cache
def inputs() -> tuple[torch.Tensor, dict]:
    g = torch.Generator().manual_seed(4)
    x = torch.randn(2, FRAMES, 8, 8, 8, generator=g)
    told = {
        "encoder_hidden_states": torch.randn(2, 1, 32, generator=g),
        "added_time_ids": torch.tensor([[6.0, 127.0, 0.02]]).expand(2, -1),
    }
    return x, told


def call(unet, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return unet(x, torch.tensor([0.3, 0.3]), **inputs()[1]).sample


def test_calls_whose_maps_are_kept_are_the_base_s_to_the_bit():
    svd, maps = toy_svd(), {}
    sites = load_turned(svd.unet, reversal(svd))
    blocks = {path: svd.unet.get_submodule(path) for path, _ in sites.items()}
    assert len(blocks) == 10  # SVD, of two layers a level, has 16
    expected = call(svd.unet, inputs()[0])
    with keeping(blocks, maps, (0, 1)):
        assert torch.equal(call(svd.unet, inputs()[0]), expected)
    assert all(kept.keys() == blocks.keys() for kept in maps.values()) and maps.keys() == {0, 1}
    assert torch.equal(call(svd.unet, inputs()[0]), expected)


def test_with_no_change_and_its_own_maps_the_backward_call_is_the_base_s_own():
    svd, maps = toy_svd(), {}
    sites = load_turned(svd.unet, reversal(svd))
    for parameter in sites.parameters():
        parameter.zero_()
    blocks = {path: svd.unet.get_submodule(path) for path, _ in sites.items()}
    with keeping(blocks, maps, (0,)):
        expected = call(svd.unet, inputs()[0])
    maps[0] = {path: kept.flip(-2, -1) for path, kept in maps[0].items()}  # and will be rotated back
    with reversing(sites, blocks, maps, (0,)):
        found = call(svd.unet, inputs()[0])
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)  # fp32: attention in two ways


def test_the_backward_call_is_that_of_the_tuned_u_net_on_the_same_maps():
    svd, maps = toy_svd(), {}
    sites = load_turned(svd.unet, reversal(svd))
    tuned = copy.deepcopy(svd.unet)
    tuned.load_state_dict(tuned_unet(svd))
    places = [{path: unet.get_submodule(path) for path, _ in sites.items()} for unet in (svd.unet, tuned)]
    with keeping(places[1], maps, (0,)):
        expected = call(tuned, inputs()[0])
    maps[0] = {path: kept.flip(-2, -1) for path, kept in maps[0].items()}
    with reversing(sites, places[0], maps, (0,)):
        found = call(svd.unet, inputs()[0])
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)  # fp32
    assert (found - call(svd.unet, inputs()[0])).abs().max() > 0.05


def test_the_film_keeps_its_frames_and_its_seed_and_leaves_the_base_as_it_was():
    svd, given = toy_svd(), pictures(3, 50, 70)
    before = copy.deepcopy(svd.unet.state_dict())
    weights = reversal(svd)
    film = interpolate(svd, given, REVERSED, weights)
    assert film.shape == (7, 50, 70, 3) and torch.isfinite(film).all()
    assert all(torch.equal(film[3 * i], picture) for i, picture in enumerate(given))
    assert torch.equal(film, interpolate(svd, given, REVERSED, weights))
    for other in (
        interpolate(svd, given, SETTINGS),
        interpolate(svd, given, REVERSED, reversal(svd, 0.1)),
        interpolate(svd, given, replace(REVERSED, seed=1), weights),
    ):
        assert not torch.equal(film[1:3], other[1:3])
    assert all(torch.equal(before[k], v) for k, v in svd.unet.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in svd.unet.modules())


def test_a_fault_inside_the_u_net_leaves_nothing_behind():
    svd = copy.deepcopy(toy_svd())

    def fail(*_):
        raise RuntimeError("injected")

    handle = svd.unet.conv_out.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="injected"):
        interpolate(svd, pictures(2), REVERSED, reversal(svd))
    handle.remove()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in svd.unet.modules())


def test_weights_and_method_go_together_or_are_refused():
    svd, given = toy_svd(), pictures(2)
    with pytest.raises(ValueError, match="tuned is for the method 'reversed' alone, not for 'held'"):
        interpolate(svd, given, SETTINGS, reversal(svd))
    with pytest.raises(ValueError, match="'reversed' needs the weights of Generative Inbetweening"):
        interpolate(svd, given, REVERSED)
    with pytest.raises(ValueError, match=r"tuned on another model than this one"):
        interpolate(svd, given, REVERSED, reversal(toy_svd(1), original=False))
    with pytest.raises(ValueError, match=r"this base has no such matrix"):
        interpolate(svd, given, REVERSED, reversal(toy_svd(layers=2)))


def test_from_a_diffusers_folder_onto_the_tuned_base_or_with_the_original_beside_onto_another(tmp_path):
    base, other = toy_svd(), toy_svd(1)
    (tmp_path / "unet").mkdir()
    save_file(tuned_unet(base), tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    given, expected = pictures(2), reversal(base)
    found = interpolate(base, given, REVERSED, load_weights(tmp_path))
    assert torch.equal(found, interpolate(base, given, REVERSED, expected))
    save_single_file(base, tmp_path / "svd.safetensors", torch.float32)
    found = interpolate(other, given, REVERSED, load_weights(tmp_path))
    assert torch.equal(found, interpolate(other, given, REVERSED, expected))


def test_the_published_code_samples_the_same_latents():
    """jeanne-wang/svd_keyframe_interpolation at 61fd2bf on these toys, with this noise and these conditions:
    4 steps, 5 injections in the first two, 28 calls of the U-Net; tuned on one base, added onto another.
    """
    svd, weights = toy_svd(layers=2), reversal(toy_svd(3, layers=2))
    shown = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(12)) * 2 - 1
    settings, trained = Settings(steps=4, method="reversed"), svd.config | {"guidance": (1.0, 3.0)}
    latents = sample_segment(svd, load_turned(svd.unet, weights), shown, 7, settings, trained, 5)
    found = latents[3, :, 4, 4] * svd.vae.config["scaling_factor"]
    theirs = torch.tensor([-1.9637699, 0.1714129, -0.2466773, -1.9610454])
    torch.testing.assert_close(found, theirs, rtol=0, atol=1e-4)  # fp32: all latents within 7.4e-6
