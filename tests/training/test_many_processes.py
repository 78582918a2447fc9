"""The same training in one process and in two, which talk over gloo."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.training.toy_run import TRAINING, pool, quiet, train
from vfi_core.adapter import save_adapter
from vfi_core.svd.load import load_svd
from vfi_core.tiny import TINY
from vfi_core.training.denoiser import train_base
from vfi_core.training.journal import Row
from vfi_core.training.rows import read_rows
from vfi_core.training.settings import TrainConfig

ROOT = Path(__file__).parents[2]


def run_all(out: Path, parts: int) -> None:
    """An adapter and a base, `parts` clips of a step to a process at once; what processes print is kept."""
    config = TrainConfig(steps=3, batch=4, warmup=1, accumulate=4 // parts)
    # The miniature, not the toy: gradients of random weights are small differences of large numbers, 3e-4
    # apart in float32 between a batch and its parts, in one process too (2e-12 in float64).
    adapter = train(out / "adapter", config, svd=load_svd(TINY))
    if int(os.environ.get("RANK", "0")) == 0:
        save_adapter(adapter, out / "adapter.safetensors", torch.float32)
    (out / "base").mkdir(exist_ok=True)
    base = train_base(load_svd(TINY), pool(), TrainConfig(steps=1, batch=2), TRAINING, out / "base", quiet)
    if int(os.environ.get("RANK", "0")) == 0:
        save_file(base.unet.state_dict(), out / "base.safetensors")
    with pytest.raises(ValueError, match="a batch of 3 does not divide into 2 equal parts"):
        train(out / "odd", TrainConfig(batch=3, accumulate=2 // int(os.environ.get("WORLD_SIZE", "1"))))
    print("done", flush=True)


SCRIPT = """
import sys, torch
from pathlib import Path
torch.set_num_threads(1)
from tests.training.test_many_processes import run_all
run_all(Path(sys.argv[1]), 2)
torch.distributed.destroy_process_group()
"""


def test_two_processes_have_the_losses_and_the_adapter_of_one(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "two").mkdir()
    (tmp_path / "one").mkdir()
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    two = subprocess.run(
        [sys.executable, *launch, str(tmp_path / "script.py"), str(tmp_path / "two")],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("done") == 2
    run_all(tmp_path / "one", 4)

    one_rows, two_rows = (
        [Row.of(texts) for texts in read_rows(tmp_path / name / "adapter" / "losses.csv", 9)]
        for name in ("one", "two")
    )
    assert [row.step for row in two_rows] == [1, 2, 3]
    for one, other in zip(one_rows, two_rows, strict=True):
        assert other.loss == pytest.approx(one.loss, rel=1e-5)
        assert other.grad_norm == pytest.approx(one.grad_norm, rel=1e-4)
    for name in ("adapter", "base"):
        one, other = (load_file(tmp_path / n / f"{name}.safetensors") for n in ("one", "two"))
        # AdamW's first steps go by a gradient's sign, which rounding turns where it is near zero.
        off = max((one[k] - other[k]).abs().max().item() for k in one)
        mean = sum((one[k] - other[k]).abs().sum().item() for k in one) / sum(t.numel() for t in one.values())
        assert off < 3e-3 and mean < 1e-6, (name, off, mean)
