import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vfi_core.attention import KeyframeAttention, Sites, attending, attention_paths
from vfi_core.clipspan import ClipSpan

READINGS = [(join, pool) for join in ("channel", "token") for pool in (1, 2, 4)]
SPAN = ClipSpan(frames=5, first=0, last=4, height=6, width=4)


def trained(join: str, pool: int) -> KeyframeAttention:
    torch.manual_seed(0)
    return KeyframeAttention(32, 16, join, pool).double()


@pytest.mark.parametrize(("join", "pool"), READINGS)
def test_an_untrained_site_returns_its_input_exactly(join, pool):
    site = trained(join, pool)
    attn1 = nn.ModuleDict({n: nn.Linear(32, 32, bias=False) for n in ("to_q", "to_k", "to_v")})
    site.start_from(nn.LayerNorm(32), attn1["to_q"], attn1["to_k"], attn1["to_v"])
    z = torch.randn(2, 5, 24, 32, dtype=torch.float64)
    assert torch.equal(site(z, SPAN), z)


@pytest.mark.parametrize(("join", "pool"), READINGS)
def test_it_is_equation_2_written_out(join, pool):
    site = trained(join, pool)
    z = torch.randn(1, 5, 24, 32, dtype=torch.float64)
    normed = F.layer_norm(z, (32,), site.norm.weight, site.norm.bias)
    ends = [normed[0, i].T.view(1, 32, 6, 4) for i in (0, 4)]
    ends = [F.avg_pool2d(e, pool, ceil_mode=True)[0].flatten(1).T for e in ends]
    keys = torch.cat(ends, dim=1 if join == "channel" else 0)
    for frame in range(5):
        heads = []
        for h in (slice(0, 16), slice(16, 32)):
            q, k, v = normed[0, frame] @ site.q.weight.T, keys @ site.k.weight.T, keys @ site.v.weight.T
            heads.append((q[:, h] @ k[:, h].T / 4).softmax(dim=-1) @ v[:, h])
        expected = z[0, frame] + torch.cat(heads, dim=1) @ site.o.weight.T + site.o.bias
        torch.testing.assert_close(site(z, SPAN)[0, frame], expected, rtol=0, atol=1e-12)


def test_only_the_first_and_the_last_known_frame_are_looked_at():
    site = trained("token", 1)
    z = torch.randn(1, 5, 24, 32, dtype=torch.float64)
    changed = z.clone()
    changed[0, 2] += 1
    same = [0, 1, 3, 4]
    assert torch.equal(site(z, SPAN)[0, same], site(changed, SPAN)[0, same])
    moved = ClipSpan(5, 1, 3, 6, 4)
    assert not torch.allclose(site(z, SPAN), site(z, moved))


def test_swapping_the_keyframes_does_nothing_where_they_are_joined_as_tokens():
    site = trained("token", 2)
    z = torch.randn(1, 5, 24, 32, dtype=torch.float64)
    torch.testing.assert_close(site(z, SPAN).flip(1), site(z.flip(1), SPAN), rtol=0, atol=1e-12)


def test_a_row_of_strength_zero_is_left_alone():
    site = trained("token", 1)
    z = torch.randn(2, 5, 24, 32, dtype=torch.float64)
    span = ClipSpan(5, 0, 4, 6, 4, attention_strength=torch.tensor([0.0, 1.0]))
    out = site(z, span)
    assert torch.equal(out[0], z[0]) and torch.equal(out[1], site(z, SPAN)[1])


class Block(nn.Module):
    def forward(self, z, context=None):
        return z * 2


def test_hooks_see_both_token_layouts_alike_and_leave_nothing_behind():
    site, spatial, temporal = trained("token", 1), Block(), Block()
    sites = Sites({"a.0.spatial": site, "a.0.temporal": site})
    z = torch.randn(2, 5, 24, 32, dtype=torch.float64)
    blocks = {"a.0.spatial": spatial, "a.0.temporal": temporal}
    rows = ClipSpan(5, 0, 4, 6, 4, rows=2)
    with pytest.raises(KeyError), attending(sites, blocks, rows, frozenset({"a.0.temporal"})):
        one = spatial(z.flatten(0, 1), context=None).view(2, 5, 24, 32)
        other = temporal(z.transpose(1, 2).flatten(0, 1)).view(2, 24, 5, 32).transpose(1, 2)
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
        torch.testing.assert_close(one, site(z, SPAN) * 2, rtol=0, atol=1e-12)
        raise KeyError("a fault inside the context")
    assert not spatial._forward_pre_hooks and not temporal._forward_pre_hooks
    assert torch.equal(spatial(z), z * 2)


def test_sites_are_named_by_the_blocks_path():
    sites = Sites({"down_blocks.0.attentions.1.transformer_blocks.0": trained("token", 1)})
    assert "down_blocks.0.attentions.1.transformer_blocks.0.q.weight" in sites.state_dict()


def test_the_encoder_has_no_sites_in_the_decoder():
    names = [f"{p}.attn1.to_q.weight" for p in ("down_blocks.0.x", "mid_block.x", "up_blocks.1.x")]
    assert attention_paths(dict.fromkeys(names)) == ["down_blocks.0.x", "mid_block.x", "up_blocks.1.x"]
    assert attention_paths(dict.fromkeys(names), encoder_only=True) == ["down_blocks.0.x", "mid_block.x"]


@pytest.mark.parametrize(("tokens", "size"), [(72 * 128, (72, 128)), (9 * 16, (9, 16)), (18 * 32, (18, 32))])
def test_a_level_is_known_by_its_number_of_tokens(tokens, size):
    assert ClipSpan(14, 0, 13, 72, 128).positions_of(tokens) == size


def test_tokens_of_no_level_are_refused():
    with pytest.raises(ValueError, match="17 tokens fit no level of a 8x8 latent"):
        ClipSpan(7, 0, 6, 8, 8).positions_of(17)
