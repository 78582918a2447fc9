"""The report of an evaluation in a real Chromium: it asks the network for nothing, sorts, and shows films.

pip install -e '.[browser]' and Debian's package chromium. Screenshots land in out/browser.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("cv2", reason="needs the extra 'eval'")

from tests.browser.editor import FLAGS, chromium
from tests.comfyui import ROOT
from tests.evaluation.folders import folder, results
from vfi_core.evaluation.report import write_report

playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install -e '.[browser]'")
pytestmark = pytest.mark.skipif(
    chromium() is None, reason="no Chromium: apt install chromium, or set CHROMIUM"
)
BRIGHTNESS = """canvas => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data
    .reduce((sum, value, i) => sum + (i % 4 < 3 ? value : 0), 0)"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(folder(tmp_path_factory.mktemp("report"), results(7)))


@pytest.fixture(scope="module")
def window() -> Iterator:
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield browser
        browser.close()


def open_page(window, report: Path, **visitor: object):
    """The report as a visitor sees it, and everything it asked for or complained of."""
    page, heard = window.new_context(**visitor).new_page(), []
    page.on("request", lambda request: heard.append(request.url))
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.goto(report.as_uri())
    return page, [said for said in heard if not said.startswith("data:")]


def test_it_asks_for_nothing_and_fits_a_phone_and_a_desk(window, report: Path):
    pictures = ROOT / "out/browser"
    pictures.mkdir(parents=True, exist_ok=True)
    for name, width, scheme in (("desk", 1280, "light"), ("phone", 390, "dark")):
        page, heard = open_page(window, report, viewport={"width": width, "height": 900}, color_scheme=scheme)
        assert heard == [report.as_uri()]
        assert page.evaluate("document.documentElement.scrollWidth") == width
        page.screenshot(path=pictures / f"report-{name}.png", full_page=True)


def test_a_column_s_head_sorts_by_keyboard_and_what_saw_the_truth_stays_last(window, report: Path):
    page, _ = open_page(window, report)
    table = page.locator("table.means").first
    column = table.locator("thead tr").last.locator("th").nth(1)
    column.locator("button").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")  # the other way round
    rows = table.locator("tbody th").all_text_contents()
    assert rows == ["linear", "RIFE (published)", "fast", "VAE round trip of the truth"]
    assert column.get_attribute("aria-sort") == "ascending"


def test_films_run_together_can_be_stepped_and_show_the_truth_while_held(window, report: Path):
    page, _ = open_page(window, report)
    clip = page.locator(".clip").first
    clip.scroll_into_view_if_needed()
    playwright.expect(clip.locator("output")).to_have_text(re.compile("generated"))
    clip.get_by_role("button", name="Pause").click()
    clip.get_by_role("slider").fill("2")
    truth, ours = (clip.locator("canvas").nth(i) for i in (0, 1))
    assert clip.locator("output").text_content() == "frame 3 of 5, generated"
    assert ours.evaluate(BRIGHTNESS) != truth.evaluate(BRIGHTNESS) > 0
    clip.locator(".screen").nth(1).focus()
    page.keyboard.down("Enter")
    assert ours.evaluate(BRIGHTNESS) == truth.evaluate(BRIGHTNESS)
    page.keyboard.up("Enter")
    clip.get_by_label("difference").check()
    assert truth.evaluate(BRIGHTNESS) == 0 < ours.evaluate(BRIGHTNESS)


def test_nothing_moves_for_who_asked_for_less_motion(window, report: Path):
    page, _ = open_page(window, report, reduced_motion="reduce")
    page.locator(".clip").first.scroll_into_view_if_needed()
    page.wait_for_timeout(400)
    assert page.locator(".clip output").first.text_content() == "frame 1 of 5, given"
    assert page.locator(".clip").first.get_by_role("button", name="Play").count() == 1


def test_without_scripts_tables_and_strips_are_there(window, report: Path):
    page, _ = open_page(window, report, java_script_enabled=False)
    assert page.locator("table.means tbody tr").count() == 4
    assert page.locator(".film").first.is_hidden() and page.locator(".strips img").first.is_visible()
