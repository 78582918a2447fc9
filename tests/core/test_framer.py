"""Framer's file: recognised, refused in a sentence, and what its U-Net is shown."""

import pytest
import torch
from safetensors.torch import save_file

from vfi_core.adapter import Adapter, Options, check_conditions, expected_shapes, save_adapter
from vfi_core.framer import CONDITIONS, Framer, load_framer, missing
from vfi_core.keyframes import Keyframes
from vfi_core.weights import are_weights, load_weights

BLOCK = "down_blocks.0.attentions.0.temporal_transformer_blocks.0.attn1.to_q.weight"
BASE = {
    "conv_in.weight": torch.randn(32, 8, 3, 3),
    "conv_in.bias": torch.randn(32),
    BLOCK: torch.randn(32, 32),
}
SHAPES = {name: tuple(weight.shape) for name, weight in BASE.items()}


def tensors() -> dict[str, torch.Tensor]:
    """Framer's weights for BASE: all of them the base's, but for what the base has not."""
    conv = torch.cat([BASE["conv_in.weight"], torch.randn(32, 1, 3, 3)], dim=1)
    return BASE | {"conv_in.weight": conv, "mask_token": torch.arange(4.0).view(1, 1, 4, 1, 1)}


@pytest.mark.parametrize(
    "place",
    ["framer.safetensors", "unet/diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors"],
)
def test_a_file_or_a_diffusers_folder_is_recognised_and_comes_back_as_it_was(place, tmp_path):
    saved = tensors()
    (tmp_path / place).parent.mkdir(exist_ok=True)
    save_file(saved, tmp_path / place)
    loaded = load_weights(tmp_path / place if place == "framer.safetensors" else tmp_path)
    assert isinstance(loaded, Framer) and are_weights(tmp_path / place)
    assert loaded.tensors.keys() == saved.keys()
    assert all(torch.equal(loaded.tensors[name], saved[name]) for name in saved)
    assert loaded.training == CONDITIONS and "academic" in loaded.notice
    loaded.check(SHAPES)
    check_conditions(loaded.training)


def test_an_adapter_is_still_an_adapter(tmp_path):
    base = {
        "conv_in.weight": (32, 8, 3, 3),
        "mid_block.resnets.0.spatial_res_block.conv1.weight": (32, 32, 3, 3),
    }
    shapes = expected_shapes(Options(), base)
    made = Adapter(Options(), {name: torch.zeros(shape) for name, shape in shapes.items()}, 32)
    save_adapter(made, tmp_path / "a.safetensors")
    assert isinstance(load_weights(tmp_path / "a.safetensors"), Adapter) and are_weights(
        tmp_path / "a.safetensors"
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"conv_in.weight": torch.zeros(64, 9, 3, 3)},
            "for another base model: conv_in.weight is [64, 9, 3, 3]",
        ),
        ({"conv_in.weight": torch.zeros(32, 8, 3, 3)}, "it must be [32, 9, 3, 3]"),
        ({"mask_token": torch.zeros(4)}, "mask_token is [4]"),
        ({BLOCK: torch.zeros(64, 64)}, "for another base model: " + BLOCK),
        ({BLOCK: None}, "lacks " + BLOCK),
        ({"conv_out.bias": torch.zeros(4)}, "holds conv_out.bias, which has no place"),
    ],
)
def test_weights_of_other_shapes_are_refused_by_name(change, words):
    changed = {name: weight for name, weight in (tensors() | change).items() if weight is not None}
    with pytest.raises(ValueError) as error:
        Framer(changed).check(SHAPES)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            {"controlnet_down_blocks.0.weight": torch.zeros(1)},
            "is a ControlNet, not an adapter; give .* Framer's U-Net",
        ),
        (BASE, "is Stable Video Diffusion's U-Net alone, .*, not an adapter"),
        (tensors() | {BLOCK: torch.full((32, 32), torch.nan)}, "not finite in " + BLOCK),
    ],
    ids=["a ControlNet", "SVD", "NaN"],
)
def test_other_and_damaged_files_are_refused_in_a_sentence(found, words, tmp_path):
    save_file(found, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=words):
        load_weights(tmp_path / "x.safetensors")


def test_what_is_cut_short_or_not_there_is_refused(tmp_path):
    save_file(tensors(), tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").write_bytes((tmp_path / "x.safetensors").read_bytes()[:-100])
    assert not are_weights(tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_weights(tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="does not exist"):
        load_weights(tmp_path / "nowhere.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no .safetensors file"):
        load_weights(tmp_path / "empty")
    save_file(BASE, tmp_path / "base.safetensors")
    with pytest.raises(ValueError, match="not Framer's U-Net"):
        load_framer(tmp_path / "base.safetensors")


def test_only_what_differs_from_the_base_is_kept():
    framer = Framer(tensors())
    assert framer.changes(BASE) == {}
    assert framer.changes({name: weight.half() for name, weight in BASE.items()}) == {}  # as stored
    moved = Framer(tensors() | {BLOCK: torch.ones(32, 32)})
    assert list(moved.changes(BASE)) == [BLOCK]
    wider = Framer(tensors() | {"conv_in.weight": torch.ones(32, 9, 3, 3)})
    assert wider.changes(BASE)["conv_in.weight"].shape == (32, 8, 3, 3)
    assert wider.mask_weight.shape == (32, 1, 3, 3)


def test_the_token_stands_on_missing_frames_and_the_mask_says_which():
    latents = torch.randn(2, 4, 2, 3)
    shown = Framer(tensors()).concat_latent(latents, (0, 4), 5)
    assert shown.shape == (5, 4, 2, 3) and torch.equal(shown[[0, 4]], latents)
    assert torch.equal(shown[1:4], torch.arange(4.0).view(1, 4, 1, 1).expand(3, 4, 2, 3))
    mask = missing(Keyframes(latents, (0, 4), 5))
    assert mask.shape == (5, 1, 2, 3) and mask[:, 0, 0, 0].tolist() == [0, 1, 1, 1, 0]
