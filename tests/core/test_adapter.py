import dataclasses
import json

import pytest
import torch
from safetensors.torch import save_file

from vfi_core.adapter import (
    PRESETS,
    Adapter,
    Options,
    expected_shapes,
    load_adapter,
    merged_weight,
    save_adapter,
)

BASE = {
    "conv_in.weight": (32, 8, 3, 3),
    "conv_in.bias": (32,),
    "down_blocks.0.resnets.0.spatial_res_block.conv1.weight": (32, 32, 3, 3),
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight": (32, 32),
    "down_blocks.0.downsamplers.0.conv.weight": (32, 32, 3, 3),
    "down_blocks.1.resnets.0.spatial_res_block.conv1.weight": (64, 32, 3, 3),
    "mid_block.resnets.0.spatial_res_block.conv1.weight": (64, 64, 3, 3),
    "up_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight": (64, 64),
    "conv_out.weight": (4, 32, 3, 3),
}
CONV = "down_blocks.0.downsamplers.0.conv"
LORA = {f"encoder.lora.{CONV}.lora_A.weight": (), f"encoder.lora.{CONV}.lora_B.weight": ()}


def adapter(name: str) -> Adapter:
    options = PRESETS[name]
    lora = LORA if options.encoder_weights == "lora" else {}
    g = torch.Generator().manual_seed(0)
    shapes = expected_shapes(options, BASE, lora)
    return Adapter(
        options, {k: torch.randn(s, generator=g).half() for k, s in shapes.items()}, 32, {"frames": 7}
    )


@pytest.mark.parametrize("name", PRESETS)
def test_an_adapter_comes_back_from_its_file_as_it_was(name, tmp_path):
    saved = adapter(name)
    save_adapter(saved, tmp_path / "a.safetensors")
    loaded = load_adapter(tmp_path / "a.safetensors")
    loaded.check(BASE)
    assert (loaded.options, loaded.head_dim, loaded.training) == (saved.options, 32, {"frames": 7})
    assert loaded.tensors.keys() == saved.tensors.keys()
    assert all(torch.equal(loaded.tensors[k], saved.tensors[k]) for k in saved.tensors)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("name", PRESETS)
def test_every_tensor_of_another_shape_is_refused(name):
    whole = adapter(name)
    for key, tensor in whole.tensors.items():
        wrong = dict(whole.tensors) | {key: torch.zeros(*tensor.shape, 2)}
        with pytest.raises(ValueError) as error:
            Adapter(whole.options, wrong, 32).check(BASE)
        assert "was made for another base model" in str(error.value) and key in str(error.value)


def test_missing_and_surplus_tensors_are_refused():
    whole = adapter("paper")
    fewer = {k: v for k, v in whole.tensors.items() if k != "encoder.stem.weight"}
    with pytest.raises(ValueError, match="lacks encoder.stem.weight"):
        Adapter(whole.options, fewer, 32).check(BASE)
    more = dict(whole.tensors) | {"attention.encoder.x": torch.zeros(1)}
    with pytest.raises(ValueError, match="attention.encoder.x, which has no place"):
        Adapter(whole.options, more, 32).check(BASE)


def test_a_lora_on_a_module_the_base_lacks_is_refused():
    whole = adapter("fast")
    stray = dict(whole.tensors) | {"encoder.lora.up_blocks.9.lora_A.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match="changes up_blocks.9, which this base does not have"):
        Adapter(whole.options, stray, 32).check(BASE)


def test_a_lora_pair_that_lost_its_other_half_is_refused():
    whole = adapter("fast")
    half = {k: v for k, v in whole.tensors.items() if not k.endswith("lora_B.weight")}
    with pytest.raises(ValueError, match=r"lacks encoder\.lora\..*lora_B"):
        Adapter(whole.options, half, 32).check(BASE)


def test_a_merged_convolution_is_the_sum_of_the_two_paths():
    options = Options(encoder_weights="lora", rank=2, alpha=3.0)
    weight, a, b = torch.randn(6, 4, 3, 3), torch.randn(2, 4, 3, 3), torch.randn(6, 2, 1, 1)
    x = torch.randn(1, 4, 5, 5)
    two = torch.conv2d(x, weight, padding=1) + 1.5 * torch.conv2d(torch.conv2d(x, a, padding=1), b)
    one = torch.conv2d(x, merged_weight(weight, a, b, options), padding=1)
    torch.testing.assert_close(one, two, rtol=0, atol=1e-4)  # float32 sums of 36 products


@pytest.mark.parametrize(
    ("option", "value"),
    [("kf_join", "sum"), ("kf_pool", 3), ("encoder_input", "none"), ("rank", 0), ("rank", 1.5), ("alpha", 0)],
)
def test_an_option_outside_its_choices_is_refused_by_name(option, value):
    with pytest.raises(ValueError, match=f"option {option} is"):
        Options(**{option: value})


def written(tmp_path, metadata, tensors=None):
    path = tmp_path / "x.safetensors"
    save_file(tensors or {"w": torch.zeros(1)}, path, metadata=metadata)
    return path


@pytest.mark.parametrize(
    ("tensors", "kind"),
    [
        ({"lora_unet.down.weight": torch.zeros(1)}, "a LoRA"),
        ({"model.diffusion_model.x": torch.zeros(1)}, "an image model's checkpoint, not an adapter"),
        ({"control_model.x": torch.zeros(1)}, "a ControlNet"),
        ({"x": torch.zeros(1)}, "of an unknown kind, with tensors such as x, not an adapter"),
    ],
)
def test_a_file_of_another_kind_is_named(tensors, kind, tmp_path):
    with pytest.raises(ValueError, match=kind):
        load_adapter(written(tmp_path, {}, tensors))


def test_options_of_a_newer_version_are_refused(tmp_path):
    meta = {"options": {"kf_new": 1}, "head_dim": 32, "training": {}}
    path = written(tmp_path, {"format": "svd-vfi-adapter/1", "svd_vfi_adapter": json.dumps(meta)})
    with pytest.raises(ValueError, match="unknown option 'kf_new'"):
        load_adapter(path)


def test_values_that_do_not_fit_half_precision_are_not_written(tmp_path):
    whole = adapter("paper")
    large = {k: v.float() for k, v in whole.tensors.items()}
    large["encoder.stem.bias"][0] = 7e4
    with pytest.raises(ValueError, match=r"stem\.bias does not fit torch\.float16; save .* torch\.float32"):
        save_adapter(Adapter(whole.options, large, 32), tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def test_values_that_are_not_finite_are_refused(tmp_path):
    path = written(tmp_path, {"format": "svd-vfi-adapter/1"}, {"w": torch.tensor([float("nan")])})
    with pytest.raises(ValueError, match="not finite in w"):
        load_adapter(path)


def test_a_cut_file_and_a_missing_one_are_refused(tmp_path):
    path = written(tmp_path, {"format": "svd-vfi-adapter/1"}, {"w": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_adapter(path)
    with pytest.raises(ValueError, match="no adapter at"):
        load_adapter(tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize(
    "wrong",
    [
        {"frames": 2},
        {"frames": "7"},
        {"fps": 0},
        {"fps": float("inf")},
        {"size": [60, 64]},
        {"size": 64},
        {"guidance": 2.0},
        {"motion_bucket_id": None},
        {"augmentation": -0.1},
    ],
    ids=str,
)
def test_conditions_no_model_can_be_run_with_are_refused_on_loading(wrong, tmp_path):
    saved = dataclasses.replace(adapter("fast"), training=wrong)
    save_adapter(saved, tmp_path / "a.safetensors")
    name = next(iter(wrong))
    with pytest.raises(ValueError, match=f"a.safetensors has adapter metadata .*{name} is "):
        load_adapter(tmp_path / "a.safetensors")
