"""The report: what it says is what the folder holds, and it needs nothing but itself."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cv2", reason="needs the extra 'eval'")

from PIL import Image

from tests.evaluation.folders import METHODS, NUMBERS, folder, results
from vfi_core.evaluation import report, report_films
from vfi_core.evaluation.metrics import paired_bootstrap
from vfi_core.evaluation.report import write_report
from vfi_core.evaluation.report_tables import METRICS, shown


class Page(HTMLParser):
    """What a browser would take out of the page: tables' cells by class and row, pictures, addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: dict[str, list[dict]] = {}
        self.images: list[dict] = []
        self.addresses: list[str] = []
        self.table = self.row = ""
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        has = dict(attrs)
        self.tags.append(tag)
        self.addresses += [
            has[k] for k in ("src", "href", "action", "srcset", "data", "poster") if has.get(k)
        ]
        if tag == "table":
            self.table = has["class"].split()[-1]
        if tag == "tr":
            self.row = f"{self.table}/{has.get('data-method')}"
            self.rows.setdefault(self.row, [])
        if tag == "td":
            self.rows[self.row].append(has | {"best": False})
        if tag == "strong":
            self.rows[self.row][-1]["best"] = True
        if tag == "img":
            self.images.append(has)


def page(out: Path) -> Page:
    return Page(write_report(out).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of `results()` with films, bootstrap seed 3."""
    out = folder(tmp_path_factory.mktemp("standard"), results(), seed=3)
    return write_report(out).read_text(encoding="utf-8")


def test_every_mean_is_the_csv_s_and_the_best_is_marked(text: str):
    lines, seen = results(), Page(text)
    metrics = [m for m in METRICS if m.key in NUMBERS and m.key != "lpips"]
    for i, metric in enumerate(metrics):
        expected = {}
        for method in METHODS:
            mine = [line for line in lines if line["method"] == method and line.get(metric.key, "") != ""]
            if mine:
                expected[method] = float(np.mean([line[metric.key] for line in mine]))
                if metric.key == "flow":
                    expected[method] /= float(np.mean([line["flow_truth"] for line in mine]))
        cells = {method: seen.rows[f"means/{method}"][i] for method in METHODS}
        assert {m: float(c["data-v"]) for m, c in cells.items() if c["data-v"]} == pytest.approx(expected)
        rank = {
            m: {"low": v, "one": abs(v - 1)}.get(metric.better, -v) for m, v in expected.items() if m != "vae"
        }
        top = shown(expected[min(rank, key=rank.__getitem__)], metric.digits) if metric.better else None
        best = [m for m in rank if shown(expected[m], metric.digits) == top]
        assert [m for m, c in cells.items() if c["best"]] == best


def test_differences_are_paired_and_have_the_bootstrap_s_interval(text: str):
    lines = results()
    of = {m: np.array([line["psnr"] for line in lines if line["method"] == m]) for m in METHODS}
    for a, b in (("rife", "linear"), ("fast", "linear"), ("fast", "rife")):
        gaps = of[a] - of[b]
        low, high = (shown(v, 2, True) for v in paired_bootstrap(gaps, 3))
        mean = re.escape(shown(gaps.mean(), 2, True))
        assert re.search(
            rf">{mean}</td>\s*<td class=.ends.><small>{re.escape(low)} to {re.escape(high)}<", text
        )


def test_thirds_hold_their_own_clips(text: str):
    lines, seen = results(), Page(text)
    for i, third in enumerate(("small", "medium", "large")):
        mine = [line["tof"] for line in lines if line["method"] == "fast" and line["third"] == third]
        assert float(seen.rows["thirds/fast"][3 * i + 1]["data-v"]) == pytest.approx(np.mean(mine))


def test_the_page_fetches_nothing(text: str):
    seen = Page(text)
    assert seen.images and all(a.startswith(("data:image/webp;base64,", "#")) for a in seen.addresses)
    assert not {"link", "iframe", "object", "embed", "base"} & set(seen.tags)
    assert not re.search(r"https?://|url\(|@import|fetch\(|XMLHttpRequest", text)
    assert "default-src 'none'" in text


def test_every_picture_says_what_it_shows(text: str):
    seen = Page(text)
    assert all(image["alt"] for image in seen.images)
    # 7 clips, each a strip of the truth and two of every method.
    assert len(seen.images) == 7 * (1 + 2 * len(METHODS))


def test_best_and_worst_clips_are_those_of_ours_against_the_reference(tmp_path: Path):
    text = write_report(folder(tmp_path, results(15), films=False)).read_text(encoding="utf-8")
    of = {(line["method"], line["clip"]): line["psnr"] for line in results(15)}
    gain = {f"clip{i}": of["fast", f"clip{i}"] - of["linear", f"clip{i}"] for i in range(15)}
    order = sorted(gain, key=gain.__getitem__)
    assert re.findall(r"<h5>(\w+)</h5>", text) == order[:-7:-1] + order[:6]


def test_without_films_the_tables_stand_and_a_sentence_says_so(text: str, tmp_path: Path):
    out = folder(tmp_path, results(), films=False, seed=3)
    bare = page(out)
    assert bare.rows == Page(text).rows and not bare.images
    assert "Its films are not in the folder films." in (out / "report.html").read_text(encoding="utf-8")


def test_a_method_without_a_film_is_named(tmp_path: Path):
    out = folder(tmp_path, results(2))
    (out / "films" / "pans" / "clip0" / "rife.webp").unlink()
    assert "Without a film: RIFE (published)." in write_report(out).read_text(encoding="utf-8")


def test_names_are_shown_and_never_run(tmp_path: Path):
    odd = """<b onload="x">&'"""
    lines = [line | {"set": odd.replace("/", ""), "clip": f"{odd}{line['clip']}"} for line in results(3)]
    config = {"methods": METHODS | {"fast": odd}, "notes": [odd], "command": odd, "versions": {odd: odd}}
    out = folder(tmp_path, lines, films=False, sets={}, **config)
    seen, text = page(out), (out / "report.html").read_text(encoding="utf-8")
    assert odd not in text and "&lt;b onload=&#34;x&#34;&gt;&amp;&#39;" in text
    assert seen.tags.count("script") == 1


def test_the_same_folder_gives_the_same_page(text: str, tmp_path: Path):
    again = write_report(folder(tmp_path, results(), seed=3)).read_text(encoding="utf-8")
    assert again == text


def test_pictures_stay_within_their_budget(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = folder(tmp_path, results())
    every = sum(len(image["src"]) for image in Page(text).images)
    monkeypatch.setattr(report, "BUDGET", every // 2)
    some = page(out).images
    assert 0 < sum(len(image["src"]) for image in some) <= every // 2
    assert "have no room left in this file" in (out / "report.html").read_text(encoding="utf-8")


def test_large_films_are_made_smaller_until_they_fit_but_stay_large_enough_to_see(tmp_path: Path):
    picture = np.random.default_rng(0).integers(0, 256, (300, 1200, 3), dtype=np.uint8)
    for name in ("truth", "rife"):
        Image.fromarray(picture if name == "truth" else 255 - picture).save(
            tmp_path / f"{name}.webp", lossless=True
        )
    sizes = {}
    for room in (10**9, 700_000, 1):
        film = report_films.film_of(tmp_path, ["rife", "gone"], 4, room)
        assert film and film.missing == ["gone"] and film.native == (300, 300)
        sizes[room] = film.width, film.bytes
    assert sizes[10**9][0] == 256 and 128 < sizes[700_000][0] < 256 and sizes[1][0] == 128
    assert sizes[700_000][1] <= 700_000


def test_given_frames_that_a_method_changed_are_shown(tmp_path: Path):
    truth = np.zeros((10, 60, 3), np.uint8)
    for name, end in (("truth", 0), ("kept", 0), ("changed", 9)):
        truth[:, -12:] = end
        Image.fromarray(truth).save(tmp_path / f"{name}.webp", lossless=True)
    film = report_films.film_of(tmp_path, ["kept", "changed"], 5, 10**6)
    assert film and [strip.ends for strip in film.strips] == [True, False, True]


def test_a_few_clips_tell_nothing_apart(tmp_path: Path):
    for clips, told in ((5, False), (6, True)):
        lines = results(clips)  # RIFE is a decibel better than linear on each, or nearly
        out = folder(tmp_path / str(clips), lines, films=False)
        assert ('class="better"' in re.sub("<span.*?</span>", "", write_report(out).read_text())) == told


def test_equal_films_differ_by_nothing_and_infinity_sorts(tmp_path: Path):
    lines = [line | {"psnr": "inf"} for line in results(3)]
    text = write_report(folder(tmp_path, lines, films=False)).read_text(encoding="utf-8")
    assert "∞" in text and not re.search(r"\bnan\b", text)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("results.csv", None, "results.csv cannot be read"),
        ("results.csv", "", "holds no results; let svd-vfi evaluate finish a clip first"),
        ("results.csv", "set,clip\na,b\n", "has no column method, motion, psnr, third"),
        ("results.csv", "set,clip,motion,third,method,psnr\na,b,1,small,m,x\n", "line 2 of .* does not fit"),
        ("config.json", "{", "config.json cannot be read"),
        ("config.json", '{"reference": "gone"}', "the reference 'gone' .* has no line in results.csv"),
        ("films/pans/clip0/fast.webp", "no picture", "fast.webp cannot be read as a picture"),
    ],
)
def test_a_folder_that_is_no_result_is_refused(tmp_path: Path, name: str, content: str | None, sentence: str):
    out = folder(tmp_path, results(1))
    (out / name).unlink() if content is None else (out / name).write_text(content)
    with pytest.raises(ValueError, match=sentence):
        write_report(out)


def test_a_film_whose_frames_cannot_be_told_apart_is_refused(tmp_path: Path):
    for sets in ({"pans": {"frames": 7}}, {"pans": {"frames": 2}}):
        with pytest.raises(ValueError, match="60x10, not . frames of a film side by side; say in config"):
            write_report(folder(tmp_path, results(1), sets=sets))


def test_a_film_of_another_size_than_the_truth_is_refused(tmp_path: Path):
    out = folder(tmp_path, results(1))
    Image.new("RGB", (30, 10)).save(out / "films" / "pans" / "clip0" / "fast.webp", lossless=True)
    with pytest.raises(ValueError, match="fast.webp is 30x10 and the truth's film 60x10"):
        write_report(out)


@pytest.mark.parametrize(
    ("methods", "asking", "expected"),
    [
        ({"linear": "linear", "base": "base", "x": "adapter x", "y": "adapter y"}, "base x y", "adapter x"),
        ({"linear": "linear", "vae": "VAE round trip of the truth", "base": "base"}, "base", "base"),
        ({"nearest": "nearest", "linear": "linear", "r": "RIFE (published)"}, "", "RIFE (published)"),
        ({"linear": "linear", "nearest": "nearest"}, "", "nearest"),
        ({"linear": "linear"}, "", "linear"),
    ],
)
def test_the_method_in_view_is_the_first_adapter_or_what_comes_nearest(
    tmp_path: Path, methods: dict[str, str], asking: str, expected: str
):
    lines = [line | {"calls": 9 * (line["method"] in asking.split())} for line in results(1, methods=methods)]
    text = write_report(folder(tmp_path, lines, films=False, methods=methods)).read_text(encoding="utf-8")
    assert f"The method in view is {expected}, the reference is linear" in text


def test_several_sets_share_the_films(tmp_path: Path):
    out = folder(tmp_path, results(12, ("a", "b", "c")), films=False)
    text = write_report(out).read_text(encoding="utf-8")
    # 6 best and 6 worst among three sets.
    assert text.count("<h5>") == 12 and text.count("<h2>") == 4
