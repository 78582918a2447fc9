"""`svd-vfi evaluate` from the command line, without a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("cv2", reason="needs the extra 'eval'")
pytest.importorskip("tqdm", reason="needs the extra 'headless'")

import numpy as np
from PIL import Image

from vfi_core.cli import main


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "clips"
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for i, frame in enumerate(np.random.default_rng(0).integers(0, 256, (5, 24, 32, 3), dtype=np.uint8)):
            Image.fromarray(frame).save(root / name / f"{i:03d}.png")
    (root / "manifest.json").write_text(json.dumps({"clips": [{"clip": "cat"}, {"clip": "dog"}]}))
    return root


def test_the_methods_without_weights_need_no_model(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    command = [
        "evaluate",
        "--data",
        str(data),
        "--model",
        "none",
        "--frames",
        "5",
        "--size",
        "16",
        "-o",
        str(out),
    ]
    assert main(command) == 0
    assert "| DIS flow warp |" in capsys.readouterr().out
    assert (out / "table.md").exists() and (out / "results.csv").exists()


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        (["--frames", "2"], "use 3 or more"),
        (["--frames", "9"], "holds 5 PNG frames and 9 were asked for"),
        (["--size", "4"], "is 4x4; use 16 pixels or more"),
        (["--per-video", "0"], "use 1 or more"),
        (["--data", "nowhere"], "no manifest.json"),
        (["--adapters", "fast"], "--adapters needs a model"),
    ],
)
def test_wrong_input_is_told_in_one_sentence(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: list[str], sentence: str
):
    out = tmp_path / "out"
    command = ["evaluate", "--data", str(data), "--model", "none", "--frames", "5", "-o", str(out), *extra]
    assert main(command) == 2
    told = capsys.readouterr().err
    assert sentence in told and told.count("\n") == 1
    assert not (out / "table.md").exists()
    assert not (out / "results.csv").exists()


def test_held_out_videos_are_read_from_a_list(tmp_path: Path):
    from vfi_core.cli_evaluate import _names

    (tmp_path / "held.txt").write_text("# by source\na.mp4\n\nb.mp4\n")
    assert _names([str(tmp_path / "held.txt"), "c.mp4"]) == ["a.mp4", "b.mp4", "c.mp4"]
    with pytest.raises(ValueError, match="cannot be read"):
        _names(["nowhere.txt"])
