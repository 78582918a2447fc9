"""The plan of a training against the training."""

import pytest
import torch

from tests.svd.toys import toy_config
from tests.training.toy_run import TRAINING, own_toy, train
from vfi_core import cli
from vfi_core.adapter import PRESETS
from vfi_core.tiny import ROOM
from vfi_core.training import planned
from vfi_core.training.counted import LiveBytes, weight_bytes
from vfi_core.training.plan import Plan, plan_training
from vfi_core.training.settings import TrainConfig


def test_live_bytes_counts_what_lives_and_not_what_was_there():
    before = torch.zeros(1000)
    with LiveBytes() as memory:
        view = (before + 1).view(10, 100)
        assert memory.live == 4000
        view = view * 2
        assert (memory.live, memory.peak) == (4000, 8000)
        before.add_(view.flatten())
        before.view(10, 100)
    assert memory.peak == 8000
    del view
    assert memory.live == 0


@pytest.mark.parametrize(
    ("preset", "checkpointing", "batch"),
    [("fast", True, 4), ("paper", False, 1)],  # the other pairs take as long again; see README's table
)
def test_the_memory_planned_is_the_memory_a_run_takes(preset, checkpointing, batch, tmp_path):
    config = TrainConfig(
        steps=2, batch=batch, precision="bfloat16", gradient_checkpointing=checkpointing, optimiser="adamw"
    )
    plan = plan_training(toy_config(), PRESETS[preset], config, TRAINING, torch.device("cpu"))
    svd = own_toy()
    held = weight_bytes(svd.unet, svd.vae, svd.image_encoder)
    with LiveBytes() as memory:
        adapter = train(tmp_path, config, preset, svd=svd)
    assert plan.memory == pytest.approx(held + memory.peak, rel=0.15)
    trained = sum(t.numel() for t in adapter.tensors.values())
    base = sum(p.numel() for m in (svd.unet, svd.vae, svd.image_encoder) for p in m.parameters())
    assert plan.parameters["base"] == base and sum(plan.parameters.values()) == base + trained
    assert plan.moments == 8 * trained and plan.operations > 2 * batch * 5 * base


SMALL = """
kind = "adapter"
base = "tiny"
[clips]
root = "data"
size = 128
frames = 7
[train]
batch = 8
"""


def test_the_shell_prints_a_plan_and_makes_nothing(tmp_path, tmp_path_factory, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = tmp_path_factory.mktemp("configuration") / "small.toml"
    config.write_text(SMALL)
    plan = Plan(
        {"base": 9_860_000, "encoder.trunk": 550_000},
        40 << 20,
        4 << 20,
        0,
        8 << 20,
        4 << 20,
        0,
        1 << 30,
        10**11,
    )
    monkeypatch.setattr(planned, "plan_training", lambda *_: plan)
    assert cli.main(["train", str(config), "--plan", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("1 x 8 of 8 clips a step on cpu, each 7 frames of 128x128\n")
    for words in (
        "base, frozen",
        "encoder.trunk, trained",
        "0.008  moments of adamw",
        "1.055  together",
        "0.100 TFLOP",
    ):
        assert words in said
    assert "average" not in said
    assert not list(tmp_path.iterdir())
    assert cli.main(["train", str(ROOM / "vae.toml"), "--plan", "--device", "cpu"]) == 2
    assert "there is no plan of a VAE" in capsys.readouterr().err
