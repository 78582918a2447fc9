import copy

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from vfi_core.adapter import PRESETS, Adapter, save_adapter
from vfi_core.dialect import PREFIXES, to_single_file
from vfi_core.framer import Framer
from vfi_core.reversal import (
    ORIGINAL,
    TUNED,
    WITNESS,
    Reversal,
    attention_map,
    keeping,
    load_reversal,
    reversing,
    rotated,
    turned_sites,
)
from vfi_core.weights import load_weights

PATH = "mid_block.attentions.0.temporal_transformer_blocks.0"
HEADS, WIDTH, FRAMES = 2, 8, 5


class Attention(nn.Module):
    """Either host's temporal self-attention: four projections, and a function between them."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.heads = HEADS
        self.to_q, self.to_k, self.to_v = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(WIDTH, WIDTH), nn.Dropout(0.0)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (f(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for f in (self.to_q, self.to_k, self.to_v))
        out = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.to_out[0](out.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.attn1 = Attention(seed)


def unet(moved: float = 0.0, witness: float = 0.0) -> dict[str, torch.Tensor]:
    """A U-Net's tensors that matter here, tuned by ``moved``; of another base by ``witness``."""
    state = {f"{PATH}.{k}": v.detach().clone() for k, v in Block().state_dict().items()}
    state |= {"conv_in.weight": torch.zeros(4, 8, 3, 3), "conv_out.bias": torch.zeros(4)}
    g = torch.Generator().manual_seed(1)
    for name in state:
        change = moved if name.endswith(tuple(TUNED)) else witness if name == WITNESS else 0
        state[name] = state[name] + change * torch.randn(state[name].shape, generator=g)
    return state


def used(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: v for k, v in state.items() if k == WITNESS or k.endswith(tuple(TUNED))}


def tuned_file(folder, **state) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(unet(0.1, **state), folder / "diffusion_pytorch_model.safetensors")


def single_file(path, **state) -> None:
    renamed = {}
    for name, tensor in used(unet(**state)).items():
        renamed |= to_single_file("unet", {name: tensor})
    save_file({PREFIXES["unet"] + k: v for k, v in renamed.items()}, path)


def test_a_rotated_map_is_that_of_the_frames_in_reverse_order():
    q, k = torch.randn(2, 3, FRAMES, WIDTH, generator=torch.Generator().manual_seed(0))
    maps = attention_map(q, k, HEADS)
    assert maps.shape == (3, HEADS, FRAMES, FRAMES)
    torch.testing.assert_close(maps.sum(-1), torch.ones(3, HEADS, FRAMES))
    torch.testing.assert_close(rotated(maps), attention_map(q.flip(1), k.flip(1), HEADS))
    assert torch.equal(rotated(rotated(maps)), maps)


def calls(delta: float, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, Block]:
    """Both directions of a block: forwards on x, backwards on x reversed, with the weights moved by delta."""
    block = Block()
    deltas = Reversal(used(unet(0.1)), {}).deltas(unet())
    sites = turned_sites(deltas)
    sites.load_state_dict({k: delta * v for k, v in deltas.items()})
    maps = {}
    with torch.no_grad(), keeping({PATH: block}, maps, (1, 0)):
        forward = block.attn1(x)
    with torch.no_grad(), reversing(sites, {PATH: block}, maps, (1, 0)):
        backward = block.attn1(x.flip(1))
    assert maps == {0: {}, 1: {}}  # every map was let go
    return forward, backward, block


def test_without_a_change_the_clip_in_reverse_order_gives_the_output_in_reverse_order():
    x = torch.randn(4, FRAMES, WIDTH, generator=torch.Generator().manual_seed(2))
    forward, backward, block = calls(0.0, x)
    torch.testing.assert_close(backward.flip(1), forward, rtol=0, atol=1e-6)  # fp32
    with torch.no_grad():
        assert torch.equal(block.attn1(x), forward)  # kept maps do not touch what they are kept from


def test_the_change_is_the_tuned_matrices_in_place_of_the_base_s():
    x = torch.randn(4, FRAMES, WIDTH, generator=torch.Generator().manual_seed(2))
    _, backward, _ = calls(1.0, x)
    tuned = Block()
    tuned.load_state_dict({k.removeprefix(f"{PATH}."): v for k, v in unet(0.1).items() if k.startswith(PATH)})
    with torch.no_grad():
        expected = tuned.attn1(x.flip(1))  # its own maps are the rotated ones, as Q and K were not tuned
    torch.testing.assert_close(backward, expected, rtol=0, atol=1e-6)  # fp32


def test_branches_in_another_order_find_their_own_maps():
    block, other = Block(), Block()
    sites = turned_sites(Reversal(used(unet(0.1)), {}).deltas(unet()))
    x = torch.randn(4, FRAMES, WIDTH, generator=torch.Generator().manual_seed(2))
    swapped = torch.cat([x[2:], x[:2]])
    with torch.no_grad():
        together, apart = {}, {}
        with keeping({PATH: block}, together, (0, 1)):
            block.attn1(x)
        for branch, rows in ((1, x[2:]), (0, x[:2])):
            with keeping({PATH: other}, apart, (branch,)):
                other.attn1(rows)
        with reversing(sites, {PATH: block}, together, (0, 1)):
            expected = block.attn1(x)
        with reversing(sites, {PATH: other}, apart, (1, 0)):
            found = other.attn1(swapped)
    torch.testing.assert_close(torch.cat([found[2:], found[:2]]), expected)


def test_nothing_stays_on_a_block_also_after_an_exception():
    block, maps = Block(), {}
    before = copy.deepcopy(block.state_dict())
    sites = turned_sites(Reversal(used(unet(0.1)), {}).deltas(unet()))
    for context in (keeping({PATH: block}, maps, (0,)), reversing(sites, {PATH: block}, maps, (0,))):
        with pytest.raises(RuntimeError), context:
            raise RuntimeError
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in block.modules())
    assert all(torch.equal(before[k], v) for k, v in block.state_dict().items())


def test_a_folder_a_file_and_the_folder_of_the_u_net_are_the_same_weights(tmp_path):
    tuned_file(tmp_path / "unet")
    file = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    for place in (tmp_path, tmp_path / "unet", file):
        found = load_weights(place)
        assert isinstance(found, Reversal) and found.name == place.name
        assert found.tuned.keys() == used(unet()).keys() and not found.original


def test_other_files_are_not_taken_for_these_weights(tmp_path):
    save_adapter(Adapter(PRESETS["fast"], {}, 64, {"frames": 7}), tmp_path / "adapter.safetensors")
    assert isinstance(load_weights(tmp_path / "adapter.safetensors"), Adapter)
    save_file(unet() | {"mask_token": torch.zeros(1)}, tmp_path / "framer.safetensors")
    assert isinstance(load_weights(tmp_path / "framer.safetensors"), Framer)
    image = {"down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_v.weight": torch.zeros(1)}
    save_file(image, tmp_path / "image.safetensors")
    with pytest.raises(ValueError, match="not an adapter"):
        load_weights(tmp_path / "image.safetensors")
    with pytest.raises(ValueError, match="does not exist"):
        load_weights(tmp_path / "nowhere.safetensors")


def test_the_model_that_was_tuned_needs_no_original_and_another_one_does(tmp_path):
    tuned_file(tmp_path)
    alone = load_reversal(tmp_path)
    expected = {k: v - unet()[k] for k, v in unet(0.1).items() if k.endswith(tuple(TUNED))}
    deltas = alone.deltas(unet())
    assert deltas.keys() == {PATH + end for end in TUNED.values()}
    assert torch.equal(deltas[f"{PATH}.value.weight"], expected[f"{PATH}.attn1.to_v.weight"])
    rounded = {k: v.bfloat16() for k, v in unet().items()}
    assert alone.deltas(rounded).keys() == deltas.keys()
    other = unet(0.3, witness=0.3)
    with pytest.raises(ValueError, match=r"another model than this one .* put the original, svd.safetensors"):
        alone.deltas(other)
    single_file(tmp_path / ORIGINAL)
    both = load_reversal(tmp_path)
    assert all(torch.equal(v, deltas[k]) for k, v in both.deltas(other).items())


def test_what_does_not_fit_is_refused(tmp_path):
    tuned_file(tmp_path)
    reversal = load_reversal(tmp_path)
    name = f"{PATH}.attn1.to_v.weight"
    for base, words in (
        (unet() | {name: torch.zeros(4, 4)}, r"is \[8, 8\], this base has \[4, 4\]"),
        ({k: v for k, v in unet().items() if k != name}, "has no such matrix"),
        (unet(0.1), "nothing in it was tuned"),
    ):
        with pytest.raises(ValueError, match=words):
            reversal.deltas(base)
    single_file(tmp_path / ORIGINAL, witness=0.3)
    with pytest.raises(ValueError, match="is not the model that .* was tuned on"):
        load_reversal(tmp_path)
    save_file({"a": torch.zeros(1)}, tmp_path / ORIGINAL)
    with pytest.raises(ValueError, match="no Stable Video Diffusion checkpoint"):
        load_reversal(tmp_path)
    (tmp_path / ORIGINAL).unlink()
    state = unet(0.1)
    state[name] = state[name] * float("nan")
    save_file(state, tmp_path / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ValueError, match="not finite"):
        load_reversal(tmp_path)
