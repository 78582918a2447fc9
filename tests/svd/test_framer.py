"""Framer's weights on diffusers' U-Net: the base is untouched, and equal weights are the base."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from tests.svd.test_adapted import SPAN, H, T, W, base_output, inputs
from tests.svd.toys import toy_framer, toy_svd
from vfi_core.edm import karras_sigmas
from vfi_core.framer import CONDITIONS, Framer
from vfi_core.keyframes import Keyframes
from vfi_core.samplers import sample_euler
from vfi_core.svd import sample as host
from vfi_core.svd.adapted import load_modules, predict
from vfi_core.svd.interpolate import interpolate
from vfi_core.svd.settings import Settings
from vfi_core.weights import load_weights

SETTINGS = Settings(steps=2, in_betweens=3, size=(64, 64))


def wide() -> dict[str, torch.Tensor]:
    """Inputs for nine channels and two tokens."""
    g = torch.Generator().manual_seed(6)
    given = inputs(2)
    mask = torch.ones(2, T, 1, H, W)
    mask[:, [0, -1]] = 0
    context = torch.cat([given["context"], torch.randn(2, 1, 32, generator=g)], dim=1)
    return given | {"concat": torch.cat([given["concat"], mask], dim=2), "context": context}


def equal_to_the_base() -> Framer:
    """Framer that learnt nothing: the base's weights, no mask, no token."""
    tensors = dict(toy_svd().unet.state_dict())
    conv = tensors["conv_in.weight"]
    tensors["conv_in.weight"] = torch.cat([conv, torch.zeros(len(conv), 1, 3, 3)], dim=1)
    return Framer(tensors | {"mask_token": torch.zeros(1, 1, 4, 1, 1)})


@torch.no_grad()
def test_the_base_keeps_its_weights_even_after_an_exception():
    unet = toy_svd().unet
    before = {name: (weight, weight.clone()) for name, weight in unet.named_parameters()}
    modules = load_modules(unet, Framer(toy_framer()))
    base = base_output(2)
    out = predict(unet, modules, span=SPAN, **wide())
    assert out.shape == base.shape and not torch.allclose(out, base)
    broken = unet.up_blocks[1].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        predict(unet, modules, span=SPAN, **wide())
    broken.remove()
    after = dict(unet.named_parameters())
    assert after.keys() == before.keys()
    assert all(after[n] is own and torch.equal(own, kept) for n, (own, kept) in before.items())
    assert torch.equal(predict(unet, None, span=SPAN, **inputs(2)), base)
    assert torch.equal(predict(unet, modules, span=SPAN, **wide()), out)


@torch.no_grad()
def test_equal_weights_without_mask_and_token_are_the_base_with_both_keyframes():
    unet, framer = toy_svd().unet, equal_to_the_base()
    modules = load_modules(unet, framer)
    assert list(modules.weights) == ["conv_in.weight"]  # the rest is the base's and not kept
    latents, embedded = torch.randn(2, 4, H, W), torch.randn(2, 32)
    concat, context = modules.shown(latents, embedded, Keyframes(latents, (0, T - 1), T))
    given = {k: v[:1] for k, v in inputs(1).items()} | {"context": context[None]}
    mine = predict(unet, modules, span=SPAN, **(given | {"concat": concat[None]}))
    spread = torch.zeros(1, T, 4, H, W)
    spread[0, [0, -1]] = latents
    base = predict(unet, None, span=SPAN, **(given | {"concat": spread}))
    torch.testing.assert_close(mine, base, rtol=0, atol=2e-5)  # fp32, a sum of one more channel


@torch.no_grad()
def test_rows_do_not_see_each_other():
    unet, both = toy_svd().unet, wide()
    modules = load_modules(unet, Framer(toy_framer()))
    together = predict(unet, modules, span=SPAN, **both)
    for row in range(2):
        one = {k: v if k == "hint" else v[row : row + 1] for k, v in both.items()}
        alone = predict(unet, modules, span=SPAN, **one)
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=2e-5)


def test_a_base_of_other_dimensions_is_refused():
    with pytest.raises(ValueError, match=r"lacks up_blocks|lacks down_blocks"):
        load_modules(toy_svd(layers=2).unet, Framer(toy_framer()))


@pytest.mark.parametrize("method", ["held", "fused", "bidirectional"])
def test_a_film_keeps_its_keyframes_and_reads_both(method, tmp_path):
    save_file(toy_framer(), tmp_path / "framer.safetensors")
    framer = load_weights(tmp_path / "framer.safetensors")
    settings = replace(SETTINGS, method=method)
    g = torch.Generator().manual_seed(3)
    first, last, other = (torch.rand(64, 64, 3, generator=g) for _ in range(3))
    film = interpolate(toy_svd(), [first, last], settings, framer)
    assert film.shape == (5, 64, 64, 3)
    assert torch.equal(film[0], first) and torch.equal(film[-1], last)
    assert not torch.allclose(film, interpolate(toy_svd(), [first, last], settings))
    assert not torch.allclose(film[1], interpolate(toy_svd(), [first, other], settings, framer)[1])


def test_zeros_fall_back_to_what_framer_was_made_for():
    pictures = [torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    film = interpolate(toy_svd(), pictures, Settings(steps=1, size=(64, 64)), Framer(toy_framer()))
    assert len(film) == 14


# What Framer's own code (aim-uofa/Framer at d0ba81f, diffusers 0.24) makes of the same toy and inputs: every
# 320th value of one U-Net call, every 160th after four sampling steps; mean, deviation. Its ResNets' eps were
# set to this project's 1e-5, and its temporal cross-attention put right: under guidance it lays contexts
# ordered (pixel, branch) beside tokens ordered (branch, pixel), and pixels read the other branch's.
CALL = [
    -0.281262,
    -0.954366,
    0.110659,
    -0.139882,
    -0.043338,
    -0.107099,
    0.517764,
    -0.228316,
    -0.053481,
    0.564244,
]
STEPS = [
    0.221224,
    -0.671812,
    -0.266156,
    1.71088,
    -1.196173,
    -0.415196,
    1.592989,
    -2.489459,
    0.022211,
    1.169147,
]


def given() -> dict[str, torch.Tensor]:
    """A call's inputs for both branches, then a clip's."""
    g = torch.Generator().manual_seed(21)
    mask = torch.ones(2, T, 1, H, W)
    mask[:, [0, -1]] = 0
    x, concat = torch.randn(2, T, 4, H, W, generator=g), 3 * torch.randn(2, T, 4, H, W, generator=g)
    context = torch.randn(2, 2, 32, generator=g)
    return {
        "x": x,
        "concat": torch.cat([concat, mask], dim=2),
        "context": context,
        "pictures": torch.rand(2, 3, 64, 64, generator=g) * 2 - 1,
        "embedded": torch.randn(2, 32, generator=g),
        "noise": torch.randn(T, 4, H, W, generator=g),
    }


def told(values: torch.Tensor, every: int) -> list[float]:
    return [*values.flatten()[::every].tolist(), values.mean().item(), values.std().item()]


@torch.no_grad()
def test_a_call_of_the_u_net_is_the_published_code_s():
    unet, mine = toy_svd().unet, given()
    modules = load_modules(unet, Framer(toy_framer()))
    c_noise, ids = torch.tensor([0.3, 0.3]), torch.tensor([[6.0, 100.0, 0.02]]).expand(2, -1)
    out = predict(unet, modules, mine["x"], mine["concat"], None, c_noise, mine["context"], ids, SPAN)
    assert told(out, 320) == pytest.approx(CALL, abs=2e-5)  # fp32; 2.1e-6 measured over all values


@torch.no_grad()
def test_unheld_sampling_is_the_published_pipeline_s(monkeypatch):
    svd, mine = toy_svd(), given()
    modules = load_modules(svd.unet, Framer(toy_framer()))
    keyframes = Keyframes(host.encode(svd, mine["pictures"]), (0, T - 1), T)
    augmentation = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(31))
    monkeypatch.setattr(host, "embed", lambda *_: mine["embedded"])  # whose resampling is the host's own
    linear = Settings(guidance_shape="linear")
    trained = dict(svd.config) | CONDITIONS
    denoiser = host._guided(
        host.Direction(svd, modules, keyframes, mine["pictures"], linear, trained, augmentation)
    )
    sigmas = karras_sigmas(4, svd.config["sigma_min"], svd.config["sigma_max"])
    out = sample_euler(denoiser, mine["noise"] * (1 + sigmas[0] ** 2).sqrt(), sigmas)
    assert told(out, 160) == pytest.approx(STEPS, abs=2e-4)  # fp32; 2.1e-5 measured over all values
