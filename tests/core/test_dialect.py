"""Contract: every weight has one name and one shape in each dialect; a trip there and back loses nothing."""

from __future__ import annotations

import pytest
import torch

from vfi_core.dialect import (
    inverse,
    to_diffusers,
    to_single_file,
    unet_path_to_comfy,
    unet_path_to_diffusers,
    unet_table,
    vae_table,
)


def test_a_spatial_block_has_the_path_comfyui_gives_it() -> None:
    path = "down_blocks.0.attentions.1.transformer_blocks.0"
    assert unet_path_to_comfy(path) == "input_blocks.2.1.transformer_blocks.0"


def test_a_temporal_block_becomes_the_time_stack() -> None:
    path = "up_blocks.3.attentions.2.temporal_transformer_blocks.0"
    assert unet_path_to_comfy(path) == "output_blocks.11.1.time_stack.0"


def test_layers_per_block_moves_the_block_indices() -> None:
    assert unet_path_to_comfy("down_blocks.1.attentions.0", layers=1) == "input_blocks.3.1"
    assert unet_path_to_comfy("down_blocks.1.attentions.0", layers=2) == "input_blocks.4.1"


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_every_block_path_comes_back_from_comfyui(layers: int) -> None:
    for path in unet_table(layers):
        for inner in ("", ".temporal_transformer_blocks.0.attn1.to_q", ".transformer_blocks.0"):
            if inner and ".attentions." not in path:
                continue
            assert unet_path_to_diffusers(unet_path_to_comfy(path + inner, layers), layers) == path + inner


@pytest.mark.parametrize("table", [unet_table(2), vae_table(2)])
def test_no_two_blocks_share_a_name(table: dict) -> None:
    assert len(inverse(table)) == len(table)


def test_a_path_of_another_model_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"single_blocks\.3\.linear1.*no block"):
        unet_path_to_comfy("single_blocks.3.linear1")


def test_an_unknown_section_is_refused() -> None:
    with pytest.raises(ValueError, match="text_encoder.*unet, vae, image_encoder"):
        to_single_file("text_encoder", {})
    with pytest.raises(ValueError, match="text_encoder"):
        to_diffusers("text_encoder", {})


def test_the_queries_keys_and_values_are_fused_in_that_order() -> None:
    attention = "vision_model.encoder.layers.0.self_attn"
    state = {f"{attention}.{x}_proj.bias": torch.full((2,), float(i)) for i, x in enumerate("qkv")}
    fused = to_single_file("image_encoder", state)
    assert fused["transformer.resblocks.0.attn.in_proj_bias"].tolist() == [0, 0, 1, 1, 2, 2]
    back = to_diffusers("image_encoder", fused)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)


def test_folding_quant_conv_keeps_the_encoders_output() -> None:
    torch.manual_seed(0)
    conv_out, quant_conv = torch.nn.Conv2d(6, 8, 3, padding=1), torch.nn.Conv2d(8, 8, 1)
    state = {
        "encoder.down_blocks.0.resnets.0.conv1.bias": torch.zeros(1),
        "encoder.conv_out.weight": conv_out.weight,
        "encoder.conv_out.bias": conv_out.bias,
        "decoder.mid_block.resnets.1.time_mixer.mix_factor": torch.zeros(1),
        "quant_conv.weight": quant_conv.weight,
        "quant_conv.bias": quant_conv.bias,
    }
    folded = to_single_file("vae", state)
    x = torch.randn(1, 6, 4, 4)
    y = torch.nn.functional.conv2d(
        x, folded["encoder.conv_out.weight"], folded["encoder.conv_out.bias"], padding=1
    )
    torch.testing.assert_close(y, quant_conv(conv_out(x)), atol=1e-6, rtol=0)  # fp32, sums of 54 + 8 terms
    back = to_diffusers("vae", folded)
    assert torch.equal(back["quant_conv.weight"], torch.eye(8)[:, :, None, None])
