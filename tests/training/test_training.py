"""The trainer on a toy: what it may change, what it must not, and that a kill loses nothing."""

import contextlib
import copy
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor2_0
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.svd.toys import toy_svd
from tests.training.toy_run import TRAINING, Shades, pool, quiet
from vfi_core.adapter import PRESETS, Adapter, Options, load_adapter, save_adapter
from vfi_core.clipspan import ClipSpan
from vfi_core.svd.adapted import load_modules, predict
from vfi_core.svd.load import load_svd
from vfi_core.tiny import TINY
from vfi_core.training.clips_config import ClipsConfig
from vfi_core.training.denoiser import train_adapter, train_base
from vfi_core.training.estimates import FilmEstimates
from vfi_core.training.loss import denoising_loss
from vfi_core.training.noise import NoiseLaw, draw
from vfi_core.training.pool import LatentPool
from vfi_core.training.recipes import VAERecipe, _vae_weights
from vfi_core.training.rows import read_rows
from vfi_core.training.settings import TrainConfig
from vfi_core.training.short_attention import SHORT, short_attention
from vfi_core.training.tiny_vae import (
    LATENT_STD,
    VAEConfig,
    build_vae,
    mean_colours,
    moved_alike,
    noise_on,
    normalise_latents,
    train_vae,
)
from vfi_core.training.trainable import adapter_key, new_modules


class Still:
    """Clips of noise, two of two frames whatever is asked for; another clip in every step."""

    fingerprint = "still"

    def draw(self, seed: int, step: int, batch: int, frames: int) -> torch.Tensor:
        g = torch.Generator().manual_seed(seed * 1000 + step)
        return torch.rand(2, 2, 3, 32, 32, generator=g) * 2 - 1


class Squares(Still):
    """The same of flat squares, 8x8 pixels each."""

    def draw(self, seed: int, step: int, batch: int, frames: int) -> torch.Tensor:
        squares = super().draw(seed, step, batch, frames)[..., ::8, ::8]
        return squares.repeat_interleave(8, -1).repeat_interleave(8, -2)


def test_autocast_trains_and_keeps_the_weights_in_float32(tmp_path):
    config = TrainConfig(steps=2, batch=2, precision="bfloat16")
    adapter = train_adapter(toy_svd(), PRESETS["fast"], pool(), config, TRAINING, tmp_path, quiet)
    assert {t.dtype for t in adapter.tensors.values()} == {torch.float32}
    assert adapter.tensors["encoder.out.0.weight"].abs().max() > 0
    assert adapter.training["base_dimensions"]["cross_attention_dim"] == 32


@torch.no_grad()
def test_plain_products_over_few_tokens_compute_what_the_layers_own_kernels_do(monkeypatch):
    unet = toy_svd().unet
    own = dict(unet.attn_processors)
    lengths = set()  # of what the own kernels saw
    kernel = AttnProcessor2_0.__call__

    def watched(self, attn, hidden, *args, **kwargs):
        lengths.add(hidden.shape[1])
        return kernel(self, attn, hidden, *args, **kwargs)

    monkeypatch.setattr(AttnProcessor2_0, "__call__", watched)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1, 7, 8, 16, 16, generator=g)  # 256 tokens on the finest level, 64 on the next
    context, ids = torch.randn(1, 1, 32, generator=g), torch.zeros(1, 3)
    before = unet(x, 1.0, context, added_time_ids=ids).sample
    assert min(lengths) <= SHORT
    lengths.clear()
    with short_attention(unet, None):
        plain = unet(x, 1.0, context, added_time_ids=ids).sample
    assert unet.attn_processors == own
    assert lengths == {256}
    assert torch.allclose(plain, before, atol=2e-5)


def loss_of(svd, modules, options, batch, law, seed):
    g = torch.Generator().manual_seed(seed)
    draws = draw(law, batch, (svd.config["sigma_min"], svd.config["sigma_max"]), 0.0, g)
    return denoising_loss(svd, modules, options, batch, draws, TRAINING)


@pytest.mark.parametrize("name", PRESETS)
def test_training_changes_the_adapter_and_not_one_bit_of_the_base(name, tmp_path):
    svd = toy_svd()
    before = {k: v.clone() for k, v in svd.unet.state_dict().items()}
    adapter = train_adapter(
        svd, PRESETS[name], pool(), TrainConfig(steps=2, batch=2), TRAINING, tmp_path, quiet
    )
    assert all(torch.equal(v, before[k]) for k, v in svd.unet.state_dict().items())
    assert not any(p.requires_grad for p in svd.unet.parameters())
    assert adapter.tensors["encoder.out.0.weight"].abs().max() > 0
    save_adapter(adapter, tmp_path / "a.safetensors")
    loaded = load_adapter(tmp_path / "a.safetensors")
    load_modules(svd.unet, loaded)
    assert loaded.training["steps"] == 2 and loaded.options == PRESETS[name]


@pytest.mark.parametrize("name", PRESETS)
def test_training_goes_on_from_an_adapter_of_the_same_options_alone(name, tmp_path):
    still, moving = (TrainConfig(steps=1, batch=2, warmup=1, lr=lr) for lr in (0.0, 1e-2))
    arguments = (PRESETS[name], pool())
    for folder in "123":
        (tmp_path / folder).mkdir()
    first = train_adapter(toy_svd(), *arguments, moving, TRAINING, tmp_path / "1", quiet)
    second = train_adapter(toy_svd(), *arguments, still, TRAINING, tmp_path / "2", quiet, first)
    assert first.tensors["encoder.out.0.weight"].abs().max() > 0
    assert first.tensors.keys() == second.tensors.keys()
    assert all(torch.equal(first.tensors[k], second.tensors[k]) for k in first.tensors)
    other = dataclasses.replace(PRESETS[name], kf_pool=4)
    with pytest.raises(ValueError, match="other options"):
        train_adapter(toy_svd(), other, pool(), still, TRAINING, tmp_path / "3", quiet, first)


@torch.no_grad()
def test_a_share_of_clips_is_shown_the_nearer_keyframe():
    svd = toy_svd()
    batch = pool().draw(2, torch.Generator().manual_seed(1), torch.device("cpu"))

    def loss(reading, share):
        law = NoiseLaw(drop_embedding=0, drop_concat=0, drop_both=0, nearest=share)
        return loss_of(svd, None, Options(concat_latent=reading), batch, law, 1)

    assert loss("first", 1.0) == loss("nearest", 0.0) != loss("first", 0.0)


@torch.no_grad()
def test_a_merged_lora_is_what_was_trained():
    svd, options = copy.deepcopy(toy_svd()), PRESETS["fast"]
    svd.unet.double()
    modules = new_modules(svd, options, seed=0)
    g = torch.Generator().manual_seed(1)
    for p in modules.parameters():
        if p.requires_grad:
            p += 0.05 * torch.randn(p.shape, generator=g)
    tensors = {adapter_key(n): p for n, p in modules.named_parameters() if p.requires_grad}
    merged = load_modules(svd.unet, Adapter(options, tensors, 32))
    span = ClipSpan(5, 0, 4, 8, 8)
    inputs = {
        "x": torch.randn(1, 5, 4, 8, 8, generator=g),
        "concat": torch.randn(1, 5, 4, 8, 8, generator=g),
        "hint": torch.randn(1, 5, 5, 8, 8, generator=g),
        "c_noise": torch.zeros(1),
        "context": torch.randn(1, 1, 32, generator=g),
        "ids": torch.zeros(1, 3),
    }
    inputs = {name: value.double() for name, value in inputs.items()}
    trained, loaded = (predict(svd.unet, m, span=span, **inputs) for m in (modules, merged))
    assert (trained - predict(svd.unet, None, span=span, **inputs)).abs().max() > 0.01
    torch.testing.assert_close(trained, loaded, rtol=0, atol=1e-4)  # merged in float32: 2.2e-5 measured


@pytest.mark.parametrize("name", PRESETS)
def test_every_trainable_tensor_has_a_gradient_once_the_zeros_have_moved(name):
    svd = toy_svd()
    modules = new_modules(svd, PRESETS[name], seed=0)
    g = torch.Generator().manual_seed(1)
    trainable = {n: p for n, p in modules.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for p in trainable.values():
            p += 0.02 * torch.randn(p.shape, generator=g)
    batch = pool().draw(2, g, torch.device("cpu"))
    law = NoiseLaw(drop_embedding=0, drop_concat=0, drop_both=0)
    loss_of(svd, modules, modules.options, batch, law, 2).backward()
    # A token of one has nothing to choose between: cross-attention's norm, q and k cannot matter.
    idle = ("attn2.to_q", "attn2.to_k", ".norm2.", "norm2.weight", "norm2.bias")
    for key, p in trainable.items():
        if any(part in key for part in idle):
            continue
        assert p.grad is not None and p.grad.abs().max() > 0, f"{key} has no gradient"


def test_the_two_losses_differ_by_their_weight_alone():
    svd = toy_svd()
    batch = pool().draw(1, torch.Generator().manual_seed(3), torch.device("cpu"))
    law = NoiseLaw(mean=1.0, std=0.0)
    with torch.no_grad():
        v, eps = (loss_of(svd, None, Options(loss=loss), batch, law, 4) for loss in ("v", "eps"))
    assert eps.item() * (1 + torch.e**2) == pytest.approx(v.item(), rel=1e-5)


def test_an_exploding_run_stops_in_one_sentence_and_keeps_its_last_state(tmp_path):
    class Breaking(LatentPool):
        drawn = 0

        def draw(self, batch, g, device):
            drawn = super().draw(batch, g, device)
            self.drawn += 1
            latents = drawn.latents * (float("inf") if self.drawn > 2 else 1)
            return dataclasses.replace(drawn, latents=latents)

    config = TrainConfig(steps=4, batch=2, save_every=1)
    broken = Breaking(pool().files)
    with pytest.raises(ValueError, match="the loss is .* lower lr"):
        train_adapter(toy_svd(), PRESETS["fast"], broken, config, TRAINING, tmp_path, quiet)
    with safe_open(tmp_path / "run.safetensors", "pt") as file:
        assert file.metadata()["step"] == "2"
        assert all(torch.isfinite(file.get_tensor(name).float()).all() for name in file.keys())  # noqa: SIM118


def test_a_run_of_other_settings_is_not_continued(tmp_path):
    config = TrainConfig(steps=1, batch=2)
    train_adapter(toy_svd(), PRESETS["fast"], pool(), config, TRAINING, tmp_path, quiet)
    with pytest.raises(ValueError, match="its settings differ"):
        train_adapter(
            toy_svd(),
            PRESETS["fast"],
            pool(),
            dataclasses.replace(config, lr=1.0),
            TRAINING,
            tmp_path,
            quiet,
        )


SCRIPT = """
import sys, torch
from pathlib import Path
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from tests.training.test_training import TRAINERS
TRAINERS[sys.argv[2]](Path(sys.argv[3]), int(sys.argv[4]))
"""


def adapter_run(out: Path, steps: int) -> None:
    config = TrainConfig(steps=steps, batch=1, save_every=2)
    adapter = train_adapter(toy_svd(), PRESETS["fast"], pool(), config, TRAINING, out)
    save_adapter(adapter, out / "weights.safetensors", torch.float32)


def bfloat16_run(out: Path, steps: int) -> None:
    """An adapter again, in mixed numbers, in two parts a step, with its activations computed twice."""
    config = TrainConfig(
        steps=steps, batch=2, accumulate=2, save_every=2, precision="bfloat16", gradient_checkpointing=True
    )
    adapter = train_adapter(toy_svd(), PRESETS["fast"], pool(), config, TRAINING, out)
    save_adapter(adapter, out / "weights.safetensors", torch.float32)


def base_run(out: Path, steps: int) -> None:
    config = TrainConfig(steps=steps, batch=1, save_every=2)
    svd = train_base(toy_svd(), pool(), config, TRAINING, out)
    save_file(svd.unet.state_dict(), out / "weights.safetensors")


def vae_run(out: Path, steps: int) -> None:
    # Both parts and the discriminator within the few steps, so that a kill can fall into either.
    config = VAEConfig(
        steps=steps,
        crop_clips=2,
        clips=1,
        frames=2,
        whole_from=0.5,
        judged_from=0.25,
        latent_noise=0.2,
        moved=0.5,
        colour_weight=0.1,
        save_every=2,
    )
    vae = train_vae(config, Still(), out, torch.device("cpu"))
    save_file(vae.state_dict(), out / "weights.safetensors")


def estimates_run(out: Path, steps: int) -> None:
    """A decoder on a base's estimates, made ahead by a worker."""
    config = VAEConfig(
        steps=steps, freeze_encoder=True, crop_clips=2, clips=1, frames=3, whole_from=0.5, save_every=2
    )
    torch.manual_seed(0)
    start = build_vae(VAEConfig()).state_dict()
    estimates = FilmEstimates(toy_svd(), None, Shades(workers=1), 0.5, (1.0, 12.0))
    vae = train_vae(config, Still(), out, torch.device("cpu"), quiet, start, estimates)
    save_file(vae.state_dict(), out / "weights.safetensors")


TRAINERS = {
    "adapter": adapter_run,
    "bfloat16": bfloat16_run,
    "base": base_run,
    "vae": vae_run,
    "estimates": estimates_run,
}


def train_in_a_process(trainer: str, out: Path, steps: int) -> subprocess.Popen:
    out.mkdir(exist_ok=True)
    root = str(Path(__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, root, trainer, str(out), str(steps)],
        stdout=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root},
        start_new_session=True,
    )


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_run_killed_at_random_moments_ends_in_the_same_bits(trainer, tmp_path):
    kills, steps = int(os.environ.get("SVD_VFI_KILLS", "1")), 6 if trainer == "bfloat16" else 12
    whole = train_in_a_process(trainer, tmp_path / "whole", steps)
    assert whole.wait() == 0
    chance = random.Random(0)
    for _ in range(kills):
        run = train_in_a_process(trainer, tmp_path / "killed", steps)
        state = tmp_path / "killed" / "run.safetensors"
        before = state.stat().st_mtime_ns if state.exists() else 0
        while run.poll() is None and (state.stat().st_mtime_ns if state.exists() else 0) == before:
            time.sleep(0.01)
        time.sleep(chance.random() * 0.5)
        with contextlib.suppress(ProcessLookupError):  # it may have come to its end
            os.killpg(run.pid, signal.SIGKILL)  # with its workers, which would wait for it for ever
        run.wait()
    assert train_in_a_process(trainer, tmp_path / "killed", steps).wait() == 0
    one, other = (load_file(tmp_path / n / "weights.safetensors") for n in ("whole", "killed"))
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
    if trainer not in ("vae", "estimates"):  # a row for every step, none twice, and the same losses
        tables = [read_rows(tmp_path / name / "losses.csv", steps) for name in ("whole", "killed")]
        assert [row[0] for row in tables[1]] == [str(step + 1) for step in range(steps)]
        assert [row[:4] for row in tables[0]] == [row[:4] for row in tables[1]]


def test_the_configurations_of_the_miniature_are_read_whole():
    from vfi_core.tiny import ROOM
    from vfi_core.training.config import build, read_toml
    from vfi_core.training.recipes import RECIPES

    held_out = set()
    for path in sorted(ROOM.glob("*.toml")):
        table = read_toml(path)
        recipe = build(RECIPES[table.pop("kind")], table, path.name)
        held_out.add(json.dumps(recipe.clips.held_out))
    assert len(held_out) == 1  # one split for the VAE, the base and the adapters, or the frames leak


@torch.no_grad()
def test_an_untrained_vae_decodes_a_clip_frame_by_frame():
    torch.manual_seed(0)
    vae = build_vae(VAEConfig())
    latents = torch.randn(3, 4, 4, 4)
    clip = vae.decode(latents, num_frames=3).sample
    alone = torch.cat([vae.decode(z[None], num_frames=1).sample for z in latents])
    torch.testing.assert_close(clip, alone, rtol=0, atol=1e-5)  # fp32, another batch size


def test_a_frozen_encoder_keeps_its_latents_while_the_decoder_learns(tmp_path):
    torch.manual_seed(0)
    start = build_vae(VAEConfig()).state_dict()
    config = VAEConfig(steps=2, crop_clips=2, latent_noise=0.2, freeze_encoder=True)
    vae = train_vae(config, Still(), tmp_path, torch.device("cpu"), start=start)
    changed = {name for name, tensor in vae.state_dict().items() if not torch.equal(tensor, start[name])}
    assert changed and all(name.startswith("decoder.") for name in changed)
    with pytest.raises(ValueError, match="freeze_encoder .* give start"):
        VAERecipe(ClipsConfig(), config)


def test_a_vae_may_begin_from_the_bundled_one_and_a_base_stand_on_it():
    vae = build_vae(VAEConfig(widths=(64, 64, 96, 128)))
    vae.load_state_dict(_vae_weights("tiny"))
    assert torch.equal(vae.state_dict()["decoder.conv_in.weight"], load_svd(TINY).vae.decoder.conv_in.weight)


def test_noise_on_latents_grows_with_each_channel_and_is_each_pictures_own():
    latents = torch.randn(6, 4, 32, 32, generator=torch.Generator().manual_seed(1))
    scale = torch.tensor([10.0, 1.0, 0.1, 3.0])[:, None, None]
    noise, scaled = (noise_on(z, 0.5, torch.Generator().manual_seed(2)) for z in (latents, scale * latents))
    torch.testing.assert_close(scaled, scale * noise)
    strengths = noise.flatten(1).std(1) / latents.std()
    assert len(set(strengths.tolist())) == 6 and strengths.max() < 0.55  # of 4,096 draws: 0.5 within 5 %
    with pytest.raises(ValueError, match="latent_noise is -1"):
        VAEConfig(latent_noise=-1)


def test_mean_colours_are_brightness_and_colour_of_eight_by_eight_pixels():
    grey = torch.linspace(-1, 1, 6).repeat_interleave(8).expand(2, 3, 16, 48)
    colours = mean_colours(grey)
    assert colours.shape == (2, 3, 2, 6) and colours[:, 1:].abs().max() < 1e-6
    assert (colours[0, 0, 0].diff() > 0).all()
    red, blue = (mean_colours(torch.eye(3)[i].view(1, 3, 1, 1).expand(1, 3, 8, 8)).flatten() for i in (0, 2))
    assert red[0] == blue[0] and red[1] == -blue[1] and red[2] == blue[2]


def test_colour_weight_draws_three_channels_to_the_mean_colours(tmp_path):
    clip = Squares().draw(1, 99, 1, 1).flatten(0, 1)
    wanted = mean_colours(clip)

    def apart(weight: float) -> list[float]:
        out = tmp_path / str(weight)
        out.mkdir()
        config = VAEConfig(steps=40, colour_weight=weight, lr=3e-3, ema=0.0, whole_from=1.0)
        vae = train_vae(config, Squares(), out, torch.device("cpu"), quiet)
        with torch.no_grad():
            latents = vae.encode(clip).latent_dist.mode()
        pairs = [torch.stack([latents[:, i].flatten(), wanted[:, i].flatten()]) for i in range(3)]
        return [1 - torch.corrcoef(pair)[0, 1].item() for pair in pairs]

    drawn, free = apart(3.0), apart(0.0)
    assert sum(drawn) < 0.7 * sum(free), (drawn, free)
    with pytest.raises(ValueError, match="colour_weight is -1"):
        VAEConfig(colour_weight=-1)


def test_latents_and_pictures_are_moved_by_the_same_map():
    g = torch.Generator().manual_seed(4)
    pictures = F.interpolate(torch.randn(6, 3, 5, 5, generator=g) / 4, (64, 64), mode="bicubic").clamp(-1, 1)
    small = F.avg_pool2d(pictures, 8)  # a VAE whose latents are pictures: to move them is to move the picture
    still, seen = moved_alike(small, pictures, 1, 0, torch.Generator().manual_seed(5))
    torch.testing.assert_close((still, seen), (small, pictures), rtol=0, atol=1e-5)
    moved, whole = moved_alike(small, pictures, 1, 1, torch.Generator().manual_seed(5))
    inner = slice(2, -2)  # beyond the edge both are mirrored, at other places
    wanted = F.avg_pool2d(whole, 8)[..., inner, inner]
    apart = [(z[..., inner, inner] - wanted).abs().mean() for z in (moved, small)]
    assert apart[0] < 0.15 * apart[1]
    clips = pictures[::3].repeat_interleave(3, dim=0)  # of one picture each: their frames stay alike
    _, together = moved_alike(F.avg_pool2d(clips, 8), clips, 3, 1, torch.Generator().manual_seed(5))
    assert torch.equal(together[:2], together[1:3]) and torch.equal(together[3:5], together[4:])
    with pytest.raises(ValueError, match="moved is 2"):
        VAEConfig(moved=2)


@torch.no_grad()
def test_normalised_latents_have_svds_scale_and_decode_to_the_same_picture():
    torch.manual_seed(0)
    vae = build_vae(VAEConfig())
    clip = Still().draw(1, 3000, 32, 7).flatten(0, 1)
    before = vae.decode(vae.encode(clip).latent_dist.mode(), num_frames=4).sample
    normalise_latents(vae, Still(), VAEConfig(), torch.device("cpu"))
    latents = vae.encode(clip).latent_dist.mode()
    assert latents.std().item() == pytest.approx(LATENT_STD, rel=1e-3)
    after = vae.decode(latents, num_frames=4).sample
    torch.testing.assert_close(after, before, rtol=0, atol=1e-4)  # fp32, a factor of 5 and back
    normalise_latents(vae, Still(), VAEConfig(colour_weight=0.1), torch.device("cpu"))
    latents = vae.encode(clip).latent_dist.mode()
    assert latents.std((0, 2, 3)).tolist() == pytest.approx([LATENT_STD] * 4, rel=1e-3)
    after = vae.decode(latents, num_frames=4).sample
    torch.testing.assert_close(after, before, rtol=0, atol=1e-4)
