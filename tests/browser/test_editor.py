"""What a person meets in ComfyUI's editor, in Debian's Chromium: templates, search, links, help, a film.

pip install -e '.[browser]' and Debian's package chromium; COMFYUI_FRONTEND names the static folder of
another comfyui-frontend-package, to run everything on it as well. Screenshots land in out/browser.
"""

from __future__ import annotations

import copy
import json
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.editor import FLAGS, Editor, chromium, installed, serving
from tests.comfyui import ROOT, comfyui

playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install -e '.[browser]'")
COMFYUI = comfyui()
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
PACK = "another-name"
OURS = sorted(path.stem for path in (ROOT / "web/docs").glob("*.md"))

pytestmark = [
    pytest.mark.comfyui,
    pytest.mark.skipif(COMFYUI is None, reason="no ComfyUI: set COMFYUI_PATH to a checkout"),
    pytest.mark.skipif(chromium() is None, reason="no Chromium: apt install chromium, or set CHROMIUM"),
]


@pytest.fixture(scope="module", params=["own", "other"])
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple]:
    """(address, folder of screenshots) of an empty ComfyUI with this pack alone, as its archive unpacks."""
    other = os.environ.get("COMFYUI_FRONTEND")
    if request.param == "other" and not other:
        pytest.skip("no other frontend: set COMFYUI_FRONTEND to the static folder of one")
    base = installed(tmp_path_factory.mktemp(request.param), PACK)
    pictures = ROOT / "out/browser" / request.param
    pictures.mkdir(parents=True, exist_ok=True)
    with serving(COMFYUI, base, Path(other) if request.param == "other" else None) as url:
        yield url, pictures


@pytest.fixture(scope="module")
def window(host: tuple) -> Iterator:
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def editor(host: tuple, window) -> Iterator[Editor]:
    """A visitor nobody has seen before."""
    context = window.new_context(viewport={"width": 1600, "height": 1000})
    yield Editor(context.new_page(), *host)
    context.close()


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_workflow_dropped_on_the_canvas_is_whole(editor: Editor):
    unknown = copy.deepcopy(read(WORKFLOWS[0]))
    unknown["nodes"][0]["type"] = "SVDVFINoSuchNode"
    editor.drop("unknown", unknown)
    assert editor.missing()  # the test can see what it looks for
    assert "SVDVFINoSuchNode" in editor.page.locator("body").inner_text()
    for path in WORKFLOWS:
        if path.stem == "wide_gaps_then_frame_interpolation" and not editor.knows("FrameInterpolate"):
            continue  # 0.3.64 has no such node
        editor.page.reload()
        editor.ready()
        editor.drop(path.stem, read(path))
        assert not editor.missing(), path.stem
        assert editor.types() == sorted(node["type"] for node in read(path)["nodes"])
        editor.page.keyboard.press(".")  # fit view
        editor.page.wait_for_timeout(800)
        editor.picture(f"dropped_{path.stem}")
        told = editor.ask("async () => (await app.graphToPrompt()).output")
        api = read(ROOT / "tests/host/api" / path.name)
        assert {k: v["class_type"] for k, v in told.items()} == {k: v["class_type"] for k, v in api.items()}
        for key, node in api.items():  # other hosts' own nodes may have an input less
            ours, have = node["class_type"].startswith("SVDVFI"), told[key]["inputs"]
            wanted = {name: value for name, value in node["inputs"].items() if ours or name in have}
            assert {name: have.get(name) for name in wanted} == wanted, (path.stem, key)


def test_every_workflow_opens_from_the_templates_browser(editor: Editor):
    page = editor.page
    for path in WORKFLOWS:
        page.get_by_role("button", name="Templates").first.click()
        page.get_by_text(PACK, exact=True).first.click()
        card = page.get_by_text(path.stem, exact=True).first
        card.wait_for()
        if path == WORKFLOWS[0]:
            page.wait_for_function(
                """pack => [...document.images].filter(i => i.src.includes('workflow_templates/' + pack))
                    .every(i => i.complete && i.naturalWidth >= 400)""",
                arg=PACK,
            )
            editor.picture("templates")
        card.click()
        page.wait_for_function("n => app.graph._nodes.length === n", arg=len(read(path)["nodes"]))
        page.wait_for_timeout(1500)
        assert not editor.missing(), path.stem
        assert editor.types() == sorted(node["type"] for node in read(path)["nodes"])
        page.keyboard.press("Escape")  # 1.27's dialog about SVD-XT's file
        page.wait_for_timeout(500)


def test_the_quick_start_runs_to_a_finished_film(editor: Editor):
    page = editor.page
    editor.drop("quick_start", read(ROOT / "workflows/quick_start.json"))
    page.keyboard.press(".")
    editor.run()
    film = editor.ask(
        "() => { const v = document.querySelector('video'); return [v.videoWidth, v.duration]; }"
    )
    assert film[0] == 256 and abs(film[1] - 1) < 0.05, film  # seven frames, seven a second
    page.wait_for_timeout(1500)
    page.keyboard.press(".")
    page.wait_for_timeout(1000)
    editor.picture("quick_start_done")


def test_every_node_is_found_by_search_and_dragged_out_of_the_library(editor: Editor):
    page = editor.page
    names = {
        node: info["display_name"]
        for node, info in json.load(urllib.request.urlopen(f"{editor.url}/object_info")).items()
        if node.startswith("SVDVFI")
    }
    assert sorted(names) == OURS
    editor.clear()
    for node, name in sorted(names.items()):
        editor.search(name, "search" if node == OURS[0] else "")
        assert node in editor.types(), (node, editor.types())
    editor.clear()
    page.get_by_role("button", name="Node Library").click()
    page.get_by_placeholder("Search").first.fill("SVD VFI Interpolate")
    page.wait_for_timeout(1500)
    entry = page.get_by_text("SVD VFI Interpolate", exact=True).first
    box = entry.bounding_box()
    editor.picture("library")
    editor.drag((box["x"] + 20, box["y"] + box["height"] / 2), (1000, 500))
    page.wait_for_timeout(800)
    assert editor.types() == ["SVDVFIInterpolate"]


def test_links_snap_to_the_sockets_of_their_type(editor: Editor):
    editor.clear()
    editor.look(0, 0)
    load = editor.add("SVDVFILoadCheckpoint", 0, 0)
    image = editor.add("LoadImage", 0, 250)
    film = editor.add("SVDVFIInterpolate", 500, 0)
    editor.page.wait_for_timeout(500)
    sockets = {"MODEL": "model", "CLIP_VISION": "clip_vision", "VAE": "vae", "adapter": "adapter"}
    for slot, target in sockets.items():
        editor.drag(editor.place(load, "output", slot), editor.place(film, "input", target))
    editor.drag(editor.place(image, "output", "IMAGE"), editor.place(film, "input", "last_image"))
    wanted = {("SVDVFIInterpolate", name, "SVDVFILoadCheckpoint") for name in sockets.values()}
    wanted |= {("SVDVFIInterpolate", "last_image", "LoadImage")}
    assert editor.links() == wanted
    editor.drag(
        editor.place(load, "output", "VAE"), editor.place(film, "input", "clip_vision")
    )  # does not fit
    assert editor.links() == wanted
    editor.drag(editor.place(image, "output", "IMAGE"), editor.place(film, "title"))  # let go over the node
    assert editor.links() == wanted | {("SVDVFIInterpolate", "images", "LoadImage")}
    editor.picture("links")


def test_the_help_page_of_every_node_opens(editor: Editor):
    page = editor.page
    for node in OURS:
        editor.clear()
        editor.look(0, 0)
        key = editor.add(node, 300, 100)
        page.wait_for_timeout(300)
        page.mouse.click(*editor.place(key, "title"))
        page.get_by_test_id("info-button").click()
        title = (ROOT / f"web/docs/{node}.md").read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        page.get_by_role("heading", name=title, exact=True).last.wait_for()
        page.get_by_role("heading", name="Outputs").last.wait_for()
        page.wait_for_timeout(600)
        shown = editor.ask(
            """() => [...document.images].filter(i => i.src.includes('/docs/'))
                .map(i => [i.src, i.naturalWidth])"""
        )
        assert len(shown) == 2 and all(width for _, width in shown), (node, shown)
        editor.picture(f"help_{node}")


def test_the_blueprint_is_offered_and_holds_the_single_nodes(editor: Editor):
    if not editor.page.request.get(f"{editor.url}/global_subgraphs").ok:
        pytest.skip("this ComfyUI has no blueprints")
    editor.clear()
    editor.search("SVD in-between", "blueprint_search")
    assert editor.ask("() => app.graph._nodes.length === 1 && !!app.graph._nodes[0].subgraph")
    inner = sorted(editor.ask("() => app.graph._nodes[0].subgraph._nodes.map(n => n.type)"))
    assert inner == sorted(
        f"SVDVFI{name}"
        for name in ("ApplyAdapter", "Keyframes", "Conditioning", "Sampler", "Decode", "Assemble")
    )
    widgets = editor.ask("() => app.graph._nodes[0].widgets.map(w => w.name)")
    assert {"positions", "seed", "steps"} <= set(widgets), widgets
    prompt = editor.ask(
        """async () => {
            const whole = app.graph._nodes[0];
            const load = LiteGraph.createNode('SVDVFILoadCheckpoint');
            const image = LiteGraph.createNode('LoadImage');
            app.graph.add(load); app.graph.add(image);
            for (const [node, out, name] of [[load, 0, 'model'], [load, 1, 'clip_vision'], [load, 2, 'vae'],
                    [load, 3, 'adapter'], [image, 0, 'images'], [image, 0, 'last_image']])
                node.connect(out, whole, whole.inputs.findIndex(i => i.name === name));
            const show = LiteGraph.createNode('PreviewImage');
            app.graph.add(show);
            whole.connect(0, show, 0);
            return (await app.graphToPrompt()).output;
        }"""
    )
    kinds = {key: node["class_type"] for key, node in prompt.items()}
    led = {
        (kinds[key], name): kinds[value[0]]
        for key, node in prompt.items()
        for name, value in node["inputs"].items()
        if isinstance(value, list)
    }
    assert led["PreviewImage", "images"] == "SVDVFIAssemble"
    assert led["SVDVFIKeyframes", "last_image"] == led["SVDVFIKeyframes", "images"] == "LoadImage"
    assert led["SVDVFIConditioning", "clip_vision"] == led["SVDVFIDecode", "vae"] == "SVDVFILoadCheckpoint"
    assert led["SVDVFISampler", "model"] == "SVDVFIApplyAdapter"
    assert led["SVDVFISampler", "seed"] == "SVDVFIKeyframes"
    editor.picture("blueprint")


def test_widgets_survive_saving_and_opening_again(editor: Editor):
    page = editor.page
    editor.drop("quick_start", read(ROOT / "workflows/quick_start.json"))
    changed = {
        "multiplier": 4,
        "seed": 1234567,
        "steps": 7,
        "cfg_middle": 2.5,
        "scheduler": "normal",
        "loop": True,
    }
    editor.ask(
        """changed => { const node = app.graph._nodes.find(n => n.type === 'SVDVFIInterpolate');
            for (const w of node.widgets) if (w.name in changed) w.value = changed[w.name]; }""",
        changed,
    )
    page.keyboard.press("Control+s")
    page.wait_for_timeout(1000)
    page.keyboard.press("Control+a")
    page.keyboard.type("kept")
    page.keyboard.press("Enter")
    page.wait_for_timeout(2000)
    page.reload()
    editor.ready()
    editor.clear()
    saved = page.request.get(f"{editor.url}/api/userdata/workflows%2Fkept.json")
    assert saved.ok, saved.status
    editor.drop("kept", saved.json())
    found = editor.ask(
        """() => Object.fromEntries(app.graph._nodes.find(n => n.type === 'SVDVFIInterpolate')
            .widgets.map(w => [w.name, w.value]))"""
    )
    assert changed.items() <= found.items(), found
