"""Every method on every clip: what the folder holds, going on after a kill, and what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cv2", reason="needs the extra 'eval'")

import numpy as np
import torch
from PIL import Image

from vfi_core.evaluation import results as results_module
from vfi_core.evaluation.baselines import linear, nearest
from vfi_core.evaluation.clips import ClipSet
from vfi_core.evaluation.methods import Method, between, inside
from vfi_core.evaluation.results import COLUMNS, Results
from vfi_core.evaluation.run import look, run, set_metrics

SPEEDS = {f"pan{v}": v for v in (1, 2, 3)}


def pan(speed: int, frames: int = 4, height: int = 32) -> np.ndarray:
    noise = torch.rand((1, 3, height // 4, 40), generator=torch.Generator().manual_seed(0))
    wide = (
        torch.nn.functional.interpolate(noise, (height, 160), mode="bicubic").clamp(0, 1)[0].permute(1, 2, 0)
    )
    film = torch.stack([wide[:, i * speed : i * speed + 24] for i in range(frames)])
    return (film * 255).round().byte().numpy()


def pans(name: str = "pans", **more: Any) -> ClipSet:
    return ClipSet(name, "pans", tuple(SPEEDS), lambda clip: pan(SPEEDS[clip]), **more)


METHODS = [
    between("nearest", "nearest", nearest),
    between("linear", "linear", linear),
    inside("vae", "the truth itself", lambda film: film),
]


def evaluate(
    out: Path, methods: list[Method] = METHODS, clips: ClipSet | None = None, **settings: Any
) -> Results:
    clips = clips or pans()
    motions, about = look(clips)
    config = {
        "settings": settings,
        "sets": {clips.name: about},
        "methods": {m.slug: m.label for m in methods},
        "reference": methods[0].slug,
        "notes": [],
        "set_metrics": {},
    }
    results = Results(out, config)
    run(methods, [clips], {clips.name: motions}, results)
    return results


def lines(out: Path) -> list[dict[str, str]]:
    with open(out / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_a_line_and_a_film_for_every_clip_and_method(tmp_path: Path):
    evaluate(tmp_path)
    rows = lines(tmp_path)
    assert list(rows[0]) == list(COLUMNS) and len(rows) == 9
    assert {row["psnr"] for row in rows if row["method"] == "vae"} == {"inf"}
    assert {row["endpoint"] for row in rows if row["method"] == "vae"} == {"0.0"}
    assert {row["endpoint"] for row in rows if row["method"] == "linear"} == {""}  # null: it has no ends
    assert {row["third"] for row in rows if row["method"] == "linear"} == {"small", "medium", "large"}
    films = sorted(path.name for path in (tmp_path / "films/pans/pan2").iterdir())
    assert films == ["linear.webp", "nearest.webp", "truth.webp", "vae.webp"]
    about = json.loads((tmp_path / "config.json").read_text())["sets"]["pans"]
    assert (about["frames"], about["size"], about["clips"]) == (4, [32, 24], 3)


def test_films_are_kept_without_loss(tmp_path: Path):
    results = evaluate(tmp_path)
    assert np.array_equal(results.read_film("pans", "pan3", "truth"), pan(3))
    film = results.read_film("pans", "pan3", "linear")
    assert np.array_equal(film[[0, -1]], pan(3)[[0, -1]])
    assert np.abs(film[1].astype(float) - (pan(3)[0] * (2 / 3) + pan(3)[-1] / 3)).max() <= 0.51


def test_a_film_too_wide_for_one_picture_is_kept_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(results_module, "WIDEST", 4 * 24 - 1)
    results = evaluate(tmp_path)
    assert results.config["sets"]["pans"]["kept_at"] == 2
    with Image.open(results.film("pans", "pan1", "truth")) as picture:
        assert picture.size == (4 * 12, 16)


def test_a_stopped_run_goes_on_behind_its_last_whole_line(tmp_path: Path):
    drawn: list[str] = []

    def watched(stop: str = "") -> list[Method]:
        def draw(clips: ClipSet, clip: Any) -> torch.Tensor:
            if clip.name == stop:
                raise KeyboardInterrupt
            drawn.append(clip.name)
            return linear(clip.frames[0], clip.frames[-1], 2)

        return [METHODS[0], Method("watched", "watched", draw)]

    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path / "killed", watched("pan2"))
    with open(tmp_path / "killed/results.csv", "a") as file:
        file.write("pans,pan2,3.1,medium,watch")  # the kill came while a line was written
    evaluate(tmp_path / "killed", watched())
    assert drawn == ["pan1", "pan2", "pan3"]
    evaluate(tmp_path / "whole", watched())
    keep = [name for name in COLUMNS if name != "seconds"]
    gone_on, whole = ([[row[k] for k in keep] for row in lines(tmp_path / f)] for f in ("killed", "whole"))
    assert gone_on == whole
    evaluate(tmp_path / "killed", watched("pan1"))  # all is there: nothing is drawn


def test_a_cell_cut_in_the_middle_is_no_whole_line(tmp_path: Path):
    evaluate(tmp_path)
    path = tmp_path / "results.csv"
    path.write_bytes(
        path.read_bytes()[:-3]
    )  # "...,0\r\n" less its end: all columns, but maybe not all digits
    assert len(Results(tmp_path, json.loads((tmp_path / "config.json").read_text())).rows) == 8


def test_the_results_of_another_evaluation_are_refused(tmp_path: Path):
    evaluate(tmp_path, steps=5)
    with pytest.raises(ValueError, match=r"another evaluation \(steps was 5, now it is 6\)"):
        evaluate(tmp_path, steps=6)
    with pytest.raises(ValueError, match="another evaluation"):
        evaluate(tmp_path, METHODS[:2], steps=5)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json cannot be read"):
        evaluate(tmp_path, steps=5)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match="results without config.json"):
        evaluate(tmp_path, steps=5)


def test_a_broken_method_is_named_with_its_clip(tmp_path: Path):
    short = between("short", "short", lambda a, b, n: linear(a, b, n - 1))
    with pytest.raises(ValueError, match="'short' on the clip 'pan1': the frames are"):
        evaluate(tmp_path, [METHODS[1], short])


def test_clips_that_cannot_be_measured_are_refused_before_the_work():
    with pytest.raises(ValueError, match="'pan1' is 8x8; use 16 pixels or more"):
        look(pans(size=(8, 8)))
    with pytest.raises(ValueError, match="has no clips"):
        look(ClipSet("none", "toys", (), pan))
    uneven = ClipSet("uneven", "toys", ("a", "b"), lambda name: pan(1, 4 if name == "a" else 5))
    with pytest.raises(ValueError, match="'b' of uneven has 5 frames and others 4"):
        look(uneven)


def test_what_was_scaled_is_said():
    _, about = look(pans(size=(16, 16), films={"RIFE (published)": lambda name: pan(1)}))
    assert "scored at 16x16; truth and published frames scaled from 24x32" in about["about"]
    triplet = ClipSet("t", "toys", ("a",), lambda name: pan(1, 3, 48))
    assert look(triplet)[1]["about"] == "toys; 3 frames, 1 of them generated; scored at 24x48."


def test_sets_as_wholes_are_measured_on_the_films_that_were_kept(tmp_path: Path):
    def colours(x: torch.Tensor) -> torch.Tensor:
        return x.float().flatten(2).mean(2)

    results = evaluate(tmp_path)
    told = set_metrics(METHODS, [pans()], results, {"fid": colours, "fvd": colours})
    assert told == ["FVD of pans is null: I3D takes 9 frames or more."]
    fid = json.loads((tmp_path / "config.json").read_text())["set_metrics"]["pans"]
    assert fid["vae"]["fid"] == pytest.approx(0, abs=1e-3) and fid["linear"]["fid"] > 0.01
