"""The settings of a run on a toy: what they may change of its course, and what not."""

import contextlib
import dataclasses

import pytest
import torch

from tests.training.toy_run import TRAINING, losses, own_toy, pool, quiet, train
from vfi_core.adapter import PRESETS, load_adapter
from vfi_core.training import watch
from vfi_core.training.denoiser import train_adapter
from vfi_core.training.loss import denoising_loss
from vfi_core.training.noise import NoiseLaw, draw
from vfi_core.training.optimiser import moment_bytes
from vfi_core.training.pool import LatentPool
from vfi_core.training.recipes import run_recipe
from vfi_core.training.settings import TrainConfig
from vfi_core.training.trainable import checkpoint_activations, new_modules


def test_accumulated_parts_are_one_step(tmp_path):
    config = TrainConfig(steps=1, batch=2, warmup=1)
    whole = train(tmp_path / "whole", config)
    parts = train(tmp_path / "parts", dataclasses.replace(config, accumulate=2))
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), rel=1e-6)
    off = torch.cat([(whole.tensors[k] - parts.tensors[k]).abs().flatten() for k in whole.tensors])
    # AdamW's first step goes by a gradient's sign, which rounding turns where it is near zero.
    assert off.max() <= 2 * config.lr and off.mean() < 1e-8


@pytest.mark.parametrize("name", PRESETS)
def test_checkpointing_computes_the_same_gradients(name):
    def run(checkpointing):
        svd = own_toy()
        checkpoint_activations(TrainConfig(gradient_checkpointing=checkpointing), svd.unet)
        modules = new_modules(svd, PRESETS[name], seed=0)
        g = torch.Generator().manual_seed(1)
        trainable = [p for p in modules.parameters() if p.requires_grad]
        with torch.no_grad():
            for p in trainable:
                p += 0.02 * torch.randn(p.shape, generator=g)
        batch = pool().draw(1, g, torch.device("cpu"))
        draws = draw(NoiseLaw(), batch, (0.02, 80.0), 0.0, g)
        with contextlib.ExitStack() as hooks:
            denoising_loss(svd, modules, modules.options, batch, draws, TRAINING, hooks).backward()
        assert not any(m._forward_pre_hooks for m in svd.unet.modules())
        return [p.grad for p in trainable]

    pairs = zip(run(False), run(True), strict=True)
    assert all(torch.allclose(plain, replayed, rtol=1e-5, atol=1e-7) for plain, replayed in pairs)


def test_a_frozen_base_may_be_held_in_bfloat16(tmp_path):
    svd = own_toy(torch.bfloat16)
    before = {k: v.clone() for k, v in svd.unet.state_dict().items()}
    config = TrainConfig(
        steps=1, batch=1, precision="bfloat16", base_precision="bfloat16", gradient_checkpointing=True
    )
    for name in PRESETS:
        adapter = train(tmp_path / name, config, name, svd=svd)
        assert {t.dtype for t in adapter.tensors.values()} == {torch.float32}
        assert adapter.tensors["encoder.out.0.weight"].abs().max() > 0
    assert all(
        v.dtype == torch.bfloat16 and torch.equal(v, before[k]) for k, v in svd.unet.state_dict().items()
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "half"}, "precision is 'half'; use one of float32, bfloat16, float16"),
        ({"base_precision": "bfloat16"}, "base_precision is 'bfloat16' with precision 'float32'"),
        ({"optimiser": "sgd"}, "optimiser is 'sgd'"),
        ({"course": "linear"}, "course is 'linear'"),
        ({"accumulate": 0}, "accumulate is 0; use at least 1"),
        ({"explode": 1.0}, "explode is 1.0; use more than 1"),
        ({"precision": "float16"}, "precision float16 trains on a GPU alone, not on cpu; use bfloat16"),
        ({"optimiser": "adamw8bit"}, "adamw8bit needs a GPU, not cpu; use adamw"),
        ({"cuda_graphs": True}, "cuda_graphs needs a GPU, not cpu; leave it out"),
        ({"cuda_graphs": True, "gradient_checkpointing": True}, "cuda_graphs cannot record gradient_checkp"),
        ({"batch": 3, "accumulate": 2}, "a batch of 3 does not divide into 2 equal parts"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_a_sentence(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(tmp_path, TrainConfig(**settings))


def test_without_a_moving_average_the_last_weights_are_kept(tmp_path):
    followed = train(tmp_path / "followed", TrainConfig(steps=1, batch=1, warmup=1))
    last = train(tmp_path / "last", TrainConfig(steps=1, batch=1, warmup=1, ema=0.0))
    moved = [k for k, v in last.tensors.items() if not torch.equal(v, followed.tensors[k])]
    assert "encoder.out.0.weight" in moved


def test_8_bit_moments_take_a_quarter():
    assert moment_bytes(TrainConfig(), 1 << 20) == 8 << 20
    assert moment_bytes(TrainConfig(optimiser="adamw8bit"), 1 << 20) == (2 << 20) + (2 << 20) // 64


class Louder(LatentPool):
    """Clips that are a thousand times too loud from the third step on."""

    drawn = 0

    def draw(self, batch, g, device):
        drawn = super().draw(batch, g, device)
        self.drawn += 1
        return dataclasses.replace(drawn, latents=drawn.latents * (1000 if self.drawn > 2 else 1))


def test_an_exploding_loss_stops_the_run_and_its_last_good_adapter_can_be_gone_on_from(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "FEWEST", 2)
    monkeypatch.setattr(watch, "PATIENCE", 2)
    config = TrainConfig(steps=9, batch=1, save_every=1)
    clips = Louder(pool().files)
    with pytest.raises(ValueError, match=r"above 10 times its median .* start = '.*last_good.safetensors'"):
        train(tmp_path, config, clips=clips)
    good = load_adapter(tmp_path / "last_good.safetensors")
    two = train(tmp_path / "two", dataclasses.replace(config, steps=2))
    assert good.tensors.keys() == two.tensors.keys()
    assert losses(tmp_path)[:2] == pytest.approx(losses(tmp_path / "two"))
    still = TrainConfig(steps=1, batch=1, lr=0.0)
    (tmp_path / "on").mkdir()
    on = train_adapter(
        own_toy(), PRESETS["fast"], pool(), still, TRAINING, tmp_path / "on", quiet, start=good
    )
    assert all(torch.equal(good.tensors[k], on.tensors[k]) for k in good.tensors)


CONFIG = """
kind = "adapter"
clips = { frames = 7, size = 64, pool = 1 }
train = { steps = 1, batch = 1 }
"""


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ('preset = "fats"', "unknown preset 'fats'"),
        ("conditions = { speed = 3 }", "unknown condition 'speed'"),
        ('base = "gone.safetensors"', "no base at gone.safetensors"),
        ('start = "gone.safetensors"', "no adapter at gone.safetensors"),
        (
            'validation = { every = 1, keyframes = [["gone.png", "gone.png"]] }',
            "names gone.png, ",
        ),
    ],
)
def test_what_is_wrong_is_told_before_any_film_is_looked_through(more, sentence, tmp_path):
    (tmp_path / "c.toml").write_text(CONFIG + more)
    with pytest.raises(ValueError, match=sentence):
        run_recipe(tmp_path / "c.toml", tmp_path / "out", "cpu", tmp_path / "no such films")
    assert not (tmp_path / "out").exists()


def test_a_configuration_may_be_mended_until_there_is_a_state_and_commented_on_afterwards(tmp_path):
    kept, asked = tmp_path / "out" / "config.toml", tmp_path / "c.toml"
    kept.parent.mkdir()
    kept.write_text(CONFIG)
    asked.write_text(CONFIG.replace("steps = 1", "steps = 2"))
    with pytest.raises(ValueError, match="no such films"):  # and not that it is another's run
        run_recipe(asked, tmp_path / "out", "cpu", tmp_path / "no such films")
    (tmp_path / "out" / "run.safetensors").touch()
    with pytest.raises(ValueError, match="a run of another configuration"):
        run_recipe(asked, tmp_path / "out", "cpu", tmp_path / "no such films")
    asked.write_text("# a comment" + CONFIG.replace("pool = 1", "pool = 1, workers = 2"))
    with pytest.raises(ValueError, match="no such films"):
        run_recipe(asked, tmp_path / "out", "cpu", tmp_path / "no such films")


def test_a_configuration_without_films_takes_them_from_the_command_line_alone(tmp_path):
    (tmp_path / "c.toml").write_text(CONFIG)
    with pytest.raises(ValueError, match="c.toml names no films; give root in .clips., or --data"):
        run_recipe(tmp_path / "c.toml", tmp_path / "out", "cpu", None)
