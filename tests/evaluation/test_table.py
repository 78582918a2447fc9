"""Tables: means over clips, what is left out, and paired differences."""

from __future__ import annotations

import pytest

pytest.importorskip("cv2", reason="needs the extra 'eval'")

from vfi_core.evaluation.metrics import Scores
from vfi_core.evaluation.results import Row
from vfi_core.evaluation.table import summary, tables

LABELS = {"linear": "linear", "mine": "My method", "net": "net"}


def row(method: str, clip: str, psnr: float, third: str = "small", calls: int = 0, **more: float) -> Row:
    numbers = {"psnr_centre": psnr - 1, "ssim": 0.5, "ssim_centre": 0.4, "tof": 2.0, "sharpness": 1.0}
    scores = Scores(psnr=psnr, **numbers, flow=1.0, flow_truth=2.0, **more)
    return Row(
        "pans", clip, 1.0 if third == "small" else 9.0, third, method, scores, 0.5 * (calls or 1), calls
    )


def cells(text: str) -> dict[str, dict[str, str]]:
    """First column -> head -> cell."""
    head, _, *rows = ([c.strip() for c in line.strip("| ").split(" | ")] for line in text.splitlines())
    return {cells[0]: dict(zip(head, cells, strict=False)) for cells in rows}


def test_a_line_holds_means_over_clips_and_the_paired_difference():
    rows = [row("linear", "a", 20), row("linear", "b", 30), row("mine", "a", 21), row("mine", "b", 31)]
    table = cells(summary(rows, LABELS, "linear"))
    assert list(table) == ["linear", "My method"]
    mine = table["My method"]
    assert (mine["PSNR all"], mine["PSNR centre"], mine["flow"]) == ("26.00", "25.00", "0.50")
    assert mine["PSNR - linear [95 %]"] == "+1.00"


def test_an_interval_takes_six_clips():
    rows = [row(m, c, 20 + (m == "mine")) for m in ("linear", "mine") for c in "abcdef"]
    assert (
        cells(summary(rows, LABELS, "linear"))["My method"]["PSNR - linear [95 %]"] == "+1.00 [+1.00, +1.00]"
    )
    assert cells(summary(rows[1:], LABELS, "linear"))["My method"]["PSNR - linear [95 %]"] == "+1.00"


def test_what_nobody_measured_has_no_column_and_what_one_did_has_empty_cells():
    rows = [row("linear", "a", 20), row("mine", "a", 21, endpoint=0.0)]
    text = summary(rows, LABELS, "linear")
    assert "LPIPS" not in text and "FID" not in text and "calls" not in text
    assert cells(text)["My method"]["endpoint"] == "0.0000"
    assert "| 0.50 |  |" in text.splitlines()[2]
    assert "FID" in summary(rows, LABELS, "linear", whole={"mine": {"fid": 12.0, "fvd": None}})


def test_a_method_with_fewer_clips_says_so_and_is_paired_on_those():
    rows = [row("linear", "a", 20), row("linear", "b", 40), row("mine", "b", 41)]
    table = cells(summary(rows, LABELS, "linear"))
    assert table["My method (1 of 2 clips)"]["PSNR - linear [95 %]"] == "+1.00"


def test_two_perfect_films_do_not_differ():
    rows = [row("linear", "a", float("inf")), row("mine", "a", float("inf"))]
    assert "+0.00" in summary(rows, LABELS, "linear")


def test_calls_are_a_film_s_and_time_is_a_ratio():
    rows = [row("linear", "a", 20), row("mine", "a", 21, calls=20), row("net", "a", 22, calls=40)]
    lines = summary(rows, LABELS, "linear").splitlines()
    assert lines[0].endswith("| calls | time |") and lines[2].endswith("|  |  |")
    assert lines[3].endswith("| 20 | x1.00 |") and lines[4].endswith("| 40 | x2.00 |")


def test_every_set_has_a_table_and_one_for_each_third_of_its_motion():
    rows = [row(m, c, 20, t) for m in ("linear", "mine") for c, t in (("a", "small"), ("b", "large"))]
    config = {
        "sets": {"pans": {"clips": 2, "about": "What was measured."}},
        "methods": LABELS,
        "reference": "linear",
        "notes": ["LPIPS is null."],
    }
    text = tables(rows, config)
    assert "### pans: all 2 clips\n\nWhat was measured.\n\n| method |" in text
    assert "1 clips of small motion (mean DIS flow from first to last 1.0 to 1.0 px)" in text
    assert "clips of large motion" in text and "medium" not in text and text.endswith("LPIPS is null.")
