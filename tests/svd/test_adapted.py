"""The adapted model on diffusers' U-Net: step-0 identity, hooks that leave nothing, and what each option
changes.
"""

from dataclasses import replace
from functools import cache

import pytest
import torch

from tests.svd.toys import toy_svd
from vfi_core.adapter import PRESETS, Adapter, Options
from vfi_core.clipspan import ClipSpan
from vfi_core.svd.adapted import AdapterModules, load_modules, predict, shapes_of
from vfi_core.svd.hooks import adding_residuals

T, H, W = 5, 8, 8
SPAN = ClipSpan(T, 0, T - 1, H, W)
SINGLE = [
    {"encoder_input": "keyframes"},
    {"concat_latent": "keyframes"},
    {"kf_join": "token"},
    {"kf_pool": 2},
    {"kf_pool": 4},
    {"kf_where": "encoder"},
    {"kf_where": "both"},
]


@cache
def inputs(rows: int) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(5)

    def randn(*shape):
        return torch.randn(*shape, generator=g)

    hint = torch.cat([randn(1, T, 4, H, W), torch.ones(1, T, 1, H, W)], dim=2)
    hint[:, 1:-1] = 0
    return {
        "x": randn(rows, T, 4, H, W),
        "concat": randn(rows, T, 4, H, W),
        "hint": hint,
        "c_noise": randn(1).expand(rows),
        "context": randn(rows, 1, 32),
        "ids": torch.tensor([[6.0, 127.0, 0.0]]).expand(rows, -1),
    }


@torch.no_grad()
def base_output(rows: int) -> torch.Tensor:
    return predict(toy_svd().unet, None, span=SPAN, **inputs(rows))


def scrambled(options: Options, seed: int = 1) -> AdapterModules:
    """Modules whose outputs are no longer zero."""
    modules = AdapterModules(toy_svd().unet, options)
    g = torch.Generator().manual_seed(seed)
    own = [
        modules.encoder.stem,
        *modules.encoder.out,
        *(s for a in modules.attention.values() for _, s in a.items()),
    ]
    with torch.no_grad():
        for module in own:
            for p in module.parameters():
                p += 0.1 * torch.randn(p.shape, generator=g)
    return modules


@pytest.mark.parametrize("rows", [1, 2], ids=["no guidance", "guidance"])
@pytest.mark.parametrize("name", PRESETS)
@torch.no_grad()
def test_an_untrained_adapter_leaves_the_model_unchanged(name, rows):
    modules = AdapterModules(toy_svd().unet, PRESETS[name])
    assert torch.equal(predict(toy_svd().unet, modules, span=SPAN, **inputs(rows)), base_output(rows))


@pytest.mark.parametrize("change", SINGLE, ids=str)
@torch.no_grad()
def test_every_reading_starts_as_the_base(change):
    modules = AdapterModules(toy_svd().unet, replace(Options(), **change))
    assert torch.equal(predict(toy_svd().unet, modules, span=SPAN, **inputs(1)), base_output(1))


@pytest.mark.parametrize("name", PRESETS)
@torch.no_grad()
def test_hooks_leave_nothing_behind_even_after_an_exception(name):
    unet, modules = toy_svd().unet, scrambled(PRESETS[name])
    assert not torch.allclose(predict(unet, modules, span=SPAN, **inputs(2)), base_output(2))
    assert torch.equal(predict(unet, None, span=SPAN, **inputs(2)), base_output(2))
    broken = unet.up_blocks[1].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        predict(unet, modules, span=SPAN, **inputs(2))
    broken.remove()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in unet.modules())
    assert torch.equal(predict(unet, None, span=SPAN, **inputs(2)), base_output(2))


@pytest.mark.parametrize("name", PRESETS)
@torch.no_grad()
def test_rows_of_a_batch_do_not_see_each_other(name):
    unet, modules, both = toy_svd().unet, scrambled(PRESETS[name]), inputs(2)
    together = predict(unet, modules, span=SPAN, **both)
    for row in range(2):
        one = {k: v if k == "hint" else v[row : row + 1] for k, v in both.items()}
        alone = predict(unet, modules, span=SPAN, **one)
        torch.testing.assert_close(
            together[row : row + 1], alone, rtol=0, atol=2e-5
        )  # fp32, another batch size


@torch.no_grad()
def test_the_keyframe_encoder_reads_neither_noise_nor_concat_nor_embedding():
    modules, both = scrambled(PRESETS["fast"]), inputs(2)
    x = torch.cat([both["x"], both["concat"]], dim=2)
    one = modules.residuals(
        x[:1], both["hint"], both["c_noise"][:1], both["ids"][:1], both["context"][:1], SPAN
    )
    other = modules.residuals(
        x[1:], both["hint"], both["c_noise"][:1], both["ids"][:1], both["context"][1:], SPAN
    )
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@torch.no_grad()
def test_at_step_0_the_keyframe_encoder_already_tells_keyframes_apart():
    modules, both = AdapterModules(toy_svd().unet, PRESETS["fast"]), inputs(1)
    features = []
    modules.encoder.trunk.register_forward_hook(lambda _m, _a, out: features.append(out[-1]))
    for hint in (both["hint"], torch.zeros_like(both["hint"])):
        modules.residuals(both["x"], hint, both["c_noise"], both["ids"], both["context"], SPAN)
    assert not torch.allclose(features[0], features[1])


@torch.no_grad()
def test_a_branch_without_the_hint_is_the_base():
    unet, modules = toy_svd().unet, scrambled(PRESETS["fast"])
    out = predict(unet, modules, span=SPAN, hinted=torch.tensor([0.0, 1.0]), **inputs(2))
    assert torch.equal(out[0], base_output(2)[0])
    kept = predict(unet, modules, span=SPAN, **inputs(2))
    torch.testing.assert_close(out[1], kept[1], rtol=0, atol=2e-5)


def test_residuals_of_another_shape_are_refused():
    unet = toy_svd().unet
    count = sum(len(b.resnets) for b in unet.up_blocks)
    wrong = [torch.zeros(T, 3, 1, 1)] * (count + 1)
    with (
        pytest.raises(ValueError, match="cannot be added at the middle block"),
        torch.no_grad(),
        adding_residuals(unet, wrong),
    ):
        predict(unet, None, span=SPAN, **inputs(1))
    with pytest.raises(ValueError, match="residuals were given"), adding_residuals(unet, wrong[:3]):
        pass


@torch.no_grad()
def test_a_full_adapter_round_trips_through_its_tensors():
    unet, modules = toy_svd().unet, scrambled(Options())
    adapter = Adapter(Options(), modules.state_dict(), 32)
    loaded = load_modules(unet, adapter)
    first, second = (predict(unet, m, span=SPAN, **inputs(1)) for m in (modules, loaded))
    assert torch.equal(first, second)
    assert not any(p.requires_grad for p in loaded.parameters())


def test_an_adapter_with_other_heads_is_refused():
    adapter = Adapter(Options(), AdapterModules(toy_svd().unet, Options()).state_dict(), 64)
    with pytest.raises(ValueError, match="attention heads of 64 channels, this base of 32"):
        load_modules(toy_svd().unet, adapter)


def test_the_shared_trunk_costs_no_second_copy_of_the_base():
    unet = toy_svd().unet
    modules = AdapterModules(unet, PRESETS["fast"])
    base = {p.data_ptr() for p in unet.parameters()}
    assert all(p.data_ptr() in base for p in modules.encoder.trunk.parameters())
    assert set(shapes_of(modules.encoder.trunk)) == {
        n for n in shapes_of(unet) if not n.startswith(("up_blocks.", "conv_norm_out.", "conv_out."))
    }
