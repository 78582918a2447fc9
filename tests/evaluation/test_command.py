"""`svd-vfi evaluate` from the command line."""

from __future__ import annotations

import csv
import json
import shutil
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
    return root


def command(data: Path, out: Path, *more: str) -> list[str]:
    line = ["evaluate", "--data", str(data), "--model", "none", "--frames", "5", "--size", "32"]
    return [*line, "--metrics", "psnr", "-o", str(out), *more]


def methods_of(out: Path) -> list[str]:
    with open(out / "results.csv", newline="") as file:
        return list(dict.fromkeys(row["method"] for row in csv.DictReader(file)))


def test_the_methods_without_weights_need_no_model(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    assert main(command(data, out)) == 0
    assert "| DIS flow warp |" in capsys.readouterr().out
    assert methods_of(out) == ["nearest", "linear", "dis", "minterpolate"]
    assert (out / "table.md").exists()
    config = json.loads((out / "config.json").read_text())
    assert config["methods"]["dis"] == "DIS flow warp" and config["reference"] == "linear"
    assert main(command(data, out)) == 0  # again: everything is there


def test_somebody_s_frames_stand_beside_the_others(data: Path, tmp_path: Path):
    out = tmp_path / "out"
    more = ["--method", "nearest", f"Mine={data}", "--reference", "Mine", "--limit", "1"]
    assert main(command(data, out, *more)) == 0
    assert methods_of(out) == ["nearest", "mine"]
    with open(out / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 and (rows[1]["psnr"], rows[1]["endpoint"]) == ("inf", "0.0")


def test_other_frames_under_the_same_label_make_another_evaluation(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    line = command(data, tmp_path / "out", "--limit", "1", "--method", "nearest")
    shutil.copytree(data, tmp_path / "theirs")
    assert main([*line, f"Theirs={tmp_path / 'theirs'}"]) == 0
    Image.new("RGB", (32, 24)).save(tmp_path / "theirs" / "cat" / "002.png")
    assert main([*line, f"Theirs={tmp_path / 'theirs'}"]) == 2
    assert "another" in capsys.readouterr().err


def test_what_is_null_is_said_in_one_sentence_each(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    line = [
        part
        for part in command(data, tmp_path / "out", "--method", "linear")
        if part not in ("--metrics", "psnr")
    ]
    assert main(line) == 0
    notes = json.loads((tmp_path / "out/config.json").read_text())["notes"]
    assert [note.split(" is null: ")[0] for note in notes if "flip" not in note] == ["LPIPS", "FID", "FVD"]
    with open(tmp_path / "out/results.csv", newline="") as file:
        assert {row["lpips"] for row in csv.DictReader(file)} == {""}


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        (["--frames", "2"], "use 3 or more"),
        (["--frames", "9"], "holds 5 frames and 9 were asked for"),
        (["--size", "4"], "is 4x4; use 16 pixels or more"),
        (["--size", "big"], "'big' is no size"),
        (["--per-video", "0"], "use 1 or more"),
        (["--data", "nowhere"], "nowhere does not exist"),
        (["--method", "fast"], "--method fast needs a model"),
        (["--method", "fats"], "--method fats needs a model"),
        (["--method", "Mine=nowhere"], "Mine=nowhere is no folder"),
        (["--reference", "dsi"], "the reference 'dsi' is none of the methods (nearest, linear,"),
        (["--metrics", "lpips"], "LPIPS was asked for by name, but AlexNet's weights are not there"),
        (["--metrics", "fvd"], "FVD was asked for by name, but no weights of I3D"),
        (["--lpips-weights", "gone.pth"], "gone.pth is not there"),
    ],
)
def test_wrong_input_is_told_in_one_sentence(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    extra: list[str],
    sentence: str,
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    out = tmp_path / "out"
    assert main(command(data, out, *extra)) == 2
    told = capsys.readouterr().err
    assert sentence in told and told.count("\n") == 1
    assert not out.exists()


def test_held_out_videos_are_read_from_a_list(tmp_path: Path):
    from vfi_core.cli_evaluate import _names

    (tmp_path / "held.txt").write_text("# by source\na.mp4\n\nb.mp4\n")
    assert _names([str(tmp_path / "held.txt"), "c.mp4"]) == ["a.mp4", "b.mp4", "c.mp4"]
    with pytest.raises(ValueError, match="cannot be read"):
        _names(["nowhere.txt"])


def test_the_miniature_is_measured_with_its_adapter_and_its_calls(data: Path, tmp_path: Path):
    pytest.importorskip("diffusers", reason="needs the extra 'headless'")
    out = tmp_path / "out"
    line = ["evaluate", "--data", str(data), "--limit", "1", "--frames", "3", "--size", "64", "--steps", "1"]
    more = ["--method", "base:fused", "fast", "--metrics", "psnr", "--device", "cpu", "-o", str(out)]
    assert main([*line, *more]) == 0
    with open(out / "results.csv", newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["base-fused", "fast"]
    assert rows["fast"]["endpoint"] == "0.0" and rows["fast"]["calls"] == "1"
    assert rows["base-fused"]["calls"] == "2"
    config = json.loads((out / "config.json").read_text())
    assert config["reference"] == "base-fused"
    assert "scored at 64x64; the truth scaled from 32x24" in config["sets"]["clips"]["about"]
