"""What only a GPU can do: float16 with its loss scale, 8-bit moments, CUDA graphs, a plan against memory."""

import dataclasses

import pytest
import torch

from tests.svd.toys import toy_config
from tests.training.toy_run import TRAINING, losses, own_toy, train
from vfi_core.adapter import PRESETS
from vfi_core.training.plan import plan_training
from vfi_core.training.settings import TrainConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


def on_gpu(dtype=torch.float32):
    svd = own_toy(dtype)
    for model in (svd.unet, svd.vae, svd.image_encoder):
        torch.nn.Module.to(model, "cuda")
    return svd


@pytest.mark.parametrize("optimiser", ["adamw", "adamw8bit"])
def test_float16_goes_on_with_its_loss_scale(optimiser, tmp_path, monkeypatch):
    if optimiser == "adamw8bit":
        pytest.importorskip("bitsandbytes")
    config = TrainConfig(steps=4, batch=2, save_every=2, precision="float16", optimiser=optimiser)
    whole = train(tmp_path / "whole", config, svd=on_gpu())

    from vfi_core.training import loop

    save = loop.save_run

    def stop(*args):
        save(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "save_run", stop)
        train(tmp_path / "stopped", config, svd=on_gpu())
    gone_on = train(tmp_path / "stopped", config, svd=on_gpu())
    for name, tensor in whole.tensors.items():
        torch.testing.assert_close(
            gone_on.tensors[name], tensor, rtol=0, atol=2e-5
        )  # 4 steps of 5e-6 at most


@pytest.mark.parametrize("preset", PRESETS)
def test_cuda_graphs_replay_the_same_steps(preset, tmp_path):
    config = TrainConfig(steps=6, batch=2, warmup=1, precision="bfloat16")
    plain = train(tmp_path / "plain", config, preset, svd=on_gpu())
    graphs = dataclasses.replace(config, cuda_graphs=True)
    replayed = train(tmp_path / "replayed", graphs, preset, svd=on_gpu())
    assert losses(tmp_path / "replayed") == pytest.approx(losses(tmp_path / "plain"), rel=1e-2)
    for name, tensor in plain.tensors.items():
        torch.testing.assert_close(replayed.tensors[name], tensor, rtol=0, atol=2e-3)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_plan_is_the_allocators_peak(preset, tmp_path):
    config = TrainConfig(steps=2, batch=4, precision="bfloat16", base_precision="bfloat16")
    config = dataclasses.replace(config, gradient_checkpointing=True)
    plan = plan_training(toy_config(), PRESETS[preset], config, TRAINING, torch.device("cuda"))
    torch.cuda.empty_cache()
    svd = on_gpu(torch.bfloat16)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    train(tmp_path, config, preset, svd=svd)
    held = sum(p.numel() * 2 for m in (svd.unet, svd.vae, svd.image_encoder) for p in m.parameters())
    measured = torch.cuda.max_memory_allocated() - before + held
    assert measured == pytest.approx(plan.memory, rel=0.15, abs=40 << 20)  # cuBLAS takes 32 MiB for itself
