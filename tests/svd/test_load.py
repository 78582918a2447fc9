"""Contract: any SVD survives the trip to a single file; of a wrong file one sentence says what it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.svd.toys import SPARSE, toy_config, toy_svd
from vfi_core.dialect import PREFIXES, to_diffusers, to_single_file
from vfi_core.svd.load import CONFIG_KEY, FULL_SIZE, SVD, build, load_svd, save_single_file


@pytest.fixture(scope="session")
def toy_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("toy") / "toy.safetensors"
    save_single_file(toy_svd(), path, torch.float32)
    return path


# Folded into one; and, with one ResNet per level, in a decoder's middle that diffusers does not run.
REWRITTEN = ("quant_conv.", "encoder.conv_out.", "decoder.mid_block.attentions.0.to_out.")


def sections(svd: SVD) -> dict[str, torch.nn.Module]:
    return {"unet": svd.unet, "vae": svd.vae, "image_encoder": svd.image_encoder}


def rewritten(source: Path, target: Path, change, config: dict | None = None) -> Path:
    tensors = load_file(source)
    change(tensors)
    save_file(tensors, target, metadata={CONFIG_KEY: json.dumps(config or toy_config())})
    return target


def test_a_model_is_built_on_one_device() -> None:
    svd = build(toy_config(), device="meta")
    for model in sections(svd).values():
        assert all(x.is_meta for x in (*model.parameters(), *model.buffers()))


# The single file


def test_the_full_size_unet_has_stabilitys_number_of_parameters() -> None:
    svd = build(FULL_SIZE, device="meta")
    assert sum(p.numel() for p in svd.unet.parameters()) == 1_524_623_082


@pytest.mark.parametrize("section", PREFIXES)
@pytest.mark.parametrize(
    "config",
    [FULL_SIZE, toy_config(), toy_config(layers=2), toy_config(attends=SPARSE)],
    ids=["full", "toy", "toy2", "sparse"],
)
def test_the_dialect_is_a_bijection_with_equal_shapes(section: str, config: dict) -> None:
    state = sections(build(config, device="meta"))[section].state_dict()
    there = to_single_file(section, state)
    back = to_diffusers(section, there)
    assert back.keys() == state.keys()
    assert all(back[key].shape == state[key].shape for key in state)
    lost = 72 if section == "vae" else 0  # quant_conv, folded: 8 x 8 and 8
    added = sum(t.numel() for key, t in there.items() if "decoder.mid.block_2." in key)
    if config["vae"]["layers_per_block"] > 1:
        added = 0  # else the neutral block that ComfyUI's decoder wants
    assert sum(t.numel() for t in there.values()) == sum(t.numel() for t in state.values()) - lost + added


def test_the_full_size_names_are_those_of_stabilitys_file() -> None:
    svd = build(FULL_SIZE, device="meta")
    names = {
        PREFIXES[s] + k: t
        for s, m in sections(svd).items()
        for k, t in to_single_file(s, m.state_dict()).items()
    }
    clip = "conditioner.embedders.0.open_clip.model.visual."
    expected = {  # read in public code that addresses svd.safetensors by these names
        "model.diffusion_model.input_blocks.1.0.time_stack.emb_layers.1.weight": (320, 1280),
        "model.diffusion_model.input_blocks.1.1.time_pos_embed.2.bias": (320,),
        "model.diffusion_model.input_blocks.3.0.op.weight": (320, 320, 3, 3),
        "model.diffusion_model.output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
        "model.diffusion_model.output_blocks.5.2.conv.weight": (1280, 1280, 3, 3),
        "model.diffusion_model.label_emb.0.0.weight": (1280, 768),
        "model.diffusion_model.middle_block.1.time_mixer.mix_factor": (1,),
        "first_stage_model.decoder.mid.block_1.mix_factor": (1,),
        "first_stage_model.decoder.mid.block_1.time_stack.in_layers.2.weight": (512, 512, 3, 1, 1),
        "first_stage_model.decoder.mid.attn_1.q.weight": (512, 512, 1, 1),
        "first_stage_model.decoder.conv_out.time_mix_conv.weight": (3, 3, 3, 1, 1),
        "first_stage_model.decoder.up.1.block.0.nin_shortcut.weight": (256, 512, 1, 1),
        clip + "transformer.resblocks.31.attn.in_proj_weight": (3840, 1280),
        clip + "conv1.weight": (1280, 3, 14, 14),
        clip + "positional_embedding": (257, 1280),
        clip + "proj": (1280, 1024),
    }
    assert {key: tuple(names[key].shape) for key in expected} == expected


def test_a_saved_file_loads_bit_for_bit(toy_file: Path) -> None:
    toy, loaded = toy_svd(), load_svd(toy_file)
    for section, model in sections(toy).items():
        state, others = model.state_dict(), sections(loaded)[section].state_dict()
        for key in state:
            if not key.startswith(REWRITTEN):
                assert torch.equal(state[key], others[key]), key
    assert loaded.config == toy.config
    assert loaded.name == "toy.safetensors"


def test_a_small_vae_decodes_bit_for_bit_after_the_trip(toy_file: Path) -> None:
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    pictures = [svd.vae.decode(latents, num_frames=3).sample for svd in (toy_svd(), load_svd(toy_file))]
    assert torch.equal(*pictures)


def test_the_folded_encoder_gives_the_same_latents(toy_file: Path) -> None:
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    latents = [svd.vae.encode(pictures).latent_dist.mode() for svd in (toy_svd(), load_svd(toy_file))]
    torch.testing.assert_close(
        *latents, atol=1e-5, rtol=0
    )  # fp32, one convolution summed otherwise: 1.4e-6 measured


def test_the_middle_a_small_vae_lacks_is_saved_neutral(toy_file: Path, tmp_path: Path) -> None:
    key = "first_stage_model.decoder.mid.block_2.conv2.weight"
    assert not load_file(toy_file)[key].any()
    path = rewritten(toy_file, tmp_path / "b.safetensors", lambda tensors: tensors[key].fill_(0.1))
    with pytest.raises(ValueError, match=r"decoder\.mid\.block_2\.conv2\.weight is not zero"):
        load_svd(path)


def test_saving_a_loaded_file_writes_the_same_tensors(toy_file: Path, tmp_path: Path) -> None:
    save_single_file(load_svd(toy_file), tmp_path / "again.safetensors", torch.float32)
    first, second = load_file(toy_file), load_file(tmp_path / "again.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_loaded_model_is_frozen_in_eval_mode_with_the_hosts_norms(toy_file: Path) -> None:
    for model in sections(load_svd(toy_file, dtype=torch.bfloat16)).values():
        assert not model.training
        assert all(
            not p.requires_grad and p.dtype == torch.bfloat16 and not p.is_meta for p in model.parameters()
        )
        assert not any(b.is_meta for b in model.buffers())
    unet = load_svd(toy_file).unet
    norms = {name: m.eps for name, m in unet.named_modules() if isinstance(m, torch.nn.GroupNorm)}
    assert {eps for name, eps in norms.items() if "attentions" not in name} == {1e-5}
    assert {eps for name, eps in norms.items() if "attentions" in name} == {1e-6}


def test_a_diffusers_folder_loads_like_the_file(toy_file: Path, tmp_path: Path) -> None:
    toy = toy_svd()
    for section, model in sections(toy).items():
        model.save_pretrained(tmp_path / section)
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text('{"sigma_min": 0.02, "sigma_max": 80.0}')
    loaded = load_svd(tmp_path)
    for section, model in sections(toy).items():
        others = sections(loaded)[section].state_dict()
        assert all(torch.equal(tensor, others[key]) for key, tensor in model.state_dict().items())
    assert (loaded.config["sigma_max"], loaded.config["frames"], loaded.name) == (80.0, 7, tmp_path.name)


def test_a_failed_save_leaves_the_old_file_and_no_other(toy_file: Path, tmp_path: Path, monkeypatch) -> None:
    target = tmp_path / "toy.safetensors"
    target.write_bytes(b"old")

    def full(*args, **kwargs) -> None:
        args[1].write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr("vfi_core.files.save_file", full)
    with pytest.raises(ValueError, match="no space"):
        save_single_file(toy_svd(), target)
    assert [p.name for p in tmp_path.iterdir()] == ["toy.safetensors"]
    assert target.read_bytes() == b"old"


def test_saving_into_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere does not exist"):
        save_single_file(toy_svd(), tmp_path / "nowhere" / "toy.safetensors")


# What is not SVD


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("svd.ckpt", b"PK\x03\x04 and more", "is a pickle"),
        ("svd.safetensors", b"PK\x03\x04 and more", "is a pickle"),
        ("svd.safetensors", b"\x80\x02}q\x00 and more", "is a pickle"),
        ("svd.safetensors", b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer"),
        ("svd.safetensors", b"", "is empty"),
        ("svd.safetensors", b"<!DOCTYPE html><html>Not found</html>", "damaged or cut short"),
    ],
)
def test_a_file_of_another_format_is_named(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        load_svd(tmp_path / name)


def test_a_truncated_file_is_told(toy_file: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.safetensors").write_bytes(toy_file.read_bytes()[:100_000])
    with pytest.raises(ValueError, match=r"cut\.safetensors is damaged or cut short"):
        load_svd(tmp_path / "cut.safetensors")


def test_a_missing_file_and_an_unrelated_folder_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        load_svd(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match=r"unet/config\.json is missing"):
        load_svd(tmp_path)


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        (
            ["model.diffusion_model.input_blocks.0.0.weight", "cond_stage_model.x"],
            "Stable Diffusion 1.x or 2.x",
        ),
        (["model.diffusion_model.input_blocks.0.0.weight", "conditioner.embedders.1.model.x"], "SDXL"),
        (["lora_unet_down_blocks_0.lora_up.weight"], "a LoRA"),
        (["double_blocks.0.img_attn.qkv.weight"], "Flux"),
        (
            ["down_blocks.0.attentions.0.temporal_transformer_blocks.0.norm1.bias"],
            "U-Net alone, in diffusers' names; give",
        ),
        (
            ["model.diffusion_model.input_blocks.1.1.time_stack.0.norm1.bias"],
            "checkpoint without its VAE and image encoder; give",
        ),
        (["something.else"], "of an unknown kind"),
    ],
)
def test_another_model_is_called_by_its_name(tmp_path: Path, keys: list[str], kind: str) -> None:
    save_file({key: torch.zeros(1) for key in keys}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=kind):
        load_svd(tmp_path / "other.safetensors")


def test_an_adapter_is_not_taken_for_a_checkpoint(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "a.safetensors", metadata={"format": "svd-vfi-adapter/1"})
    with pytest.raises(
        ValueError, match="is an adapter for in-betweening .*; give Stable Video Diffusion's checkpoint"
    ):
        load_svd(tmp_path / "a.safetensors")


def test_wrong_shapes_without_our_metadata_name_the_tensor(toy_file: Path, tmp_path: Path) -> None:
    save_file(load_file(toy_file), tmp_path / "plain.safetensors")
    with pytest.raises(ValueError, match=r"input_blocks\.0\.0\.weight is \[32, 8, 3, 3\].*\[320, 8, 3, 3\]"):
        load_svd(tmp_path / "plain.safetensors")


def test_a_missing_tensor_is_named(toy_file: Path, tmp_path: Path) -> None:
    path = rewritten(
        toy_file, tmp_path / "m.safetensors", lambda t: t.pop("first_stage_model.decoder.conv_in.bias")
    )
    with pytest.raises(ValueError, match=r"lacks first_stage_model\.decoder\.conv_in\.bias"):
        load_svd(path)


def test_nan_weights_are_named(toy_file: Path, tmp_path: Path) -> None:
    path = rewritten(
        toy_file, tmp_path / "n.safetensors", lambda t: t["model.diffusion_model.out.2.bias"].fill_(torch.nan)
    )
    with pytest.raises(ValueError, match=r"model\.diffusion_model\.out\.2\.bias holds NaN"):
        load_svd(path)


def test_broken_metadata_is_told(toy_file: Path, tmp_path: Path) -> None:
    save_file(load_file(toy_file), tmp_path / "b.safetensors", metadata={CONFIG_KEY: "{"})
    with pytest.raises(ValueError, match="svd_vfi_config is no JSON"):
        load_svd(tmp_path / "b.safetensors")
    save_file(load_file(toy_file), tmp_path / "c.safetensors", metadata={CONFIG_KEY: "{}"})
    with pytest.raises(ValueError, match="lacks unet, vae"):
        load_svd(tmp_path / "c.safetensors")
