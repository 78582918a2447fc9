"""The table: what it writes, what it compares, and what it refuses."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

pytest.importorskip("cv2", reason="needs the extra 'eval'")

import torch
from PIL import Image

from vfi_core.evaluation.baselines import linear, nearest
from vfi_core.evaluation.clips import Clip
from vfi_core.evaluation.table import run


def pans() -> list[Clip]:
    noise = torch.rand((1, 3, 8, 40), generator=torch.Generator().manual_seed(0))
    wide = torch.nn.functional.interpolate(noise, (32, 160), mode="bicubic").clamp(0, 1)[0].permute(1, 2, 0)
    wide = (wide * 255).round() / 255
    films = {v: torch.stack([wide[:, i * v : i * v + 32] for i in range(4)]) for v in (1, 2, 3, 4)}
    return [Clip(f"pan{v}", film) for v, film in films.items()]


def test_a_run_leaves_a_table_its_numbers_and_two_strips(tmp_path: Path):
    seen: list[tuple[int, int]] = []
    methods = {"nearest": nearest, "linear": linear}
    text = run(
        methods,
        {"pans": pans()},
        tmp_path / "out",
        {"truth itself": lambda c: c},
        progress=lambda *p: seen.append(p),
    )
    out = tmp_path / "out"
    assert sorted(p.name for p in out.iterdir()) == [
        "pans-large.png",
        "pans-small.png",
        "results.csv",
        "table.md",
    ]
    assert (out / "table.md").read_text() == text + "\n"
    with open(out / "results.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 12 and seen[-1] == (12, 12)
    assert {line["psnr"] for line in lines if line["method"] == "truth itself"} == {"inf"}
    assert sum(line["large"] == "True" for line in lines if line["method"] == "linear") == 2
    assert "all 4 clips" in text and "the 2 clips with large motion" in text
    with Image.open(out / "pans-small.png") as picture:
        assert picture.size == (150 + 4 * 98, 4 * 98)


def test_differences_are_paired_with_the_reference(tmp_path: Path):
    def darker(first: torch.Tensor, last: torch.Tensor, n: int) -> torch.Tensor:
        return linear(first, last, n)

    text = run({"linear": linear, "twin": darker}, {"pans": pans()}, tmp_path)
    assert "+0.00 [+0.00, +0.00]" in text.splitlines()[5]


def test_a_result_does_not_depend_on_the_other_methods(tmp_path: Path):
    alone = run({"linear": linear}, {"pans": pans()}, tmp_path / "a")
    beside = run({"nearest": nearest, "linear": linear}, {"pans": pans()}, tmp_path / "b")
    assert alone.splitlines()[4] == beside.splitlines()[5]


def test_a_broken_method_is_named_with_its_clip(tmp_path: Path):
    methods = {"linear": linear, "short": lambda a, b, n: linear(a, b, n - 1)}
    with pytest.raises(ValueError, match="'short' on the clip 'pan1': generated frames are"):
        run(methods, {"pans": pans()}, tmp_path)


def test_an_unknown_reference_and_an_empty_set_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="the reference 'linear' is none of the methods"):
        run({"nearest": nearest}, {"pans": pans()}, tmp_path)
    with pytest.raises(ValueError, match="has no clips"):
        run({"linear": linear}, {"pans": []}, tmp_path)


def test_the_model_s_calls_are_counted_for_each_film(tmp_path: Path):
    calls = 0

    def model(times: int):
        def between(first: torch.Tensor, last: torch.Tensor, n: int) -> torch.Tensor:
            nonlocal calls
            calls += times
            return linear(first, last, n)

        return between

    text = run(
        {"linear": linear, "once": model(20), "twice": model(40)},
        {"pans": pans()},
        tmp_path,
        calls=lambda: calls,
    )
    rows = {
        line.split(" | ")[0]: line.split(" | ")[-2:] for line in text.splitlines() if line.startswith("| ")
    }
    assert rows["| method"] == ["calls", "time |"] and rows["| linear"] == ["", " |"]
    assert rows["| once"] == ["20", "x1.00 |"] and rows["| twice"][0] == "40"
