"""The shipped workflows, read as files: whole, explained, with a thumbnail, and the same in both formats.

That they run is seen in tests/host, that the editor opens them in tests/browser.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
API = ROOT / "tests/host/api"
BLUEPRINTS = sorted((ROOT / "subgraphs").glob("*.json"))
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
VIRTUAL = {"MarkdownNote"}  # nodes that the editor keeps to itself


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_folder_holds_workflows_and_their_thumbnails_alone():
    """ComfyUI lists every JSON in it as a template, and no folder below it."""
    names = {path.name for path in (ROOT / "workflows").iterdir()}
    assert len(WORKFLOWS) >= 7
    assert names == {f"{path.stem}{suffix}" for path in WORKFLOWS for suffix in (".json", ".jpg")}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_the_api_copy_says_the_same(path: Path):
    graph, api = read(path), read(API / path.name)
    nodes = {str(node["id"]): node for node in graph["nodes"] if node["type"] not in VIRTUAL}
    links = {link[0]: [str(link[1]), link[2]] for link in graph["links"]}
    assert {k: n["type"] for k, n in nodes.items()} == {k: n["class_type"] for k, n in api.items()}
    for key, node in nodes.items():
        linked = {i["name"]: links[i["link"]] for i in node["inputs"] if i["link"] is not None}
        told = api[key]["inputs"]
        assert {k: v for k, v in told.items() if isinstance(v, list)} == linked, key
        named = node.get("widgets_values_named", {})
        if named:  # older editors read them by position
            assert list(named.values()) == node["widgets_values"], key
        assert {k: v for k, v in named.items() if k in told and k not in linked} == {
            k: v for k, v in told.items() if not isinstance(v, list)
        }, key


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_note_explains_it(path: Path):
    graph = read(path)
    notes = [node["widgets_values"][0] for node in graph["nodes"] if node["type"] in VIRTUAL]
    assert len(notes) == 1 and notes[0].startswith("## ") and len(notes[0]) > 200
    for name in ("svd_xt.safetensors", "film_net_fp16.safetensors"):
        if any(name in (node.get("widgets_values") or ()) for node in graph["nodes"]):
            assert name in notes[0], name  # which file goes where
    assert "randomize" not in json.dumps(graph)  # a template makes the same film each time


@pytest.mark.parametrize("path", [*WORKFLOWS, *BLUEPRINTS], ids=lambda path: path.stem)
def test_nothing_of_the_author_s_machine_is_in_it(path: Path):
    text = path.read_text(encoding="utf-8")
    assert not any(trace in text for trace in ("/root", "/home", "C:\\", "127.0.0.1", "aux_id"))


def test_the_blueprint_links_every_socket_once():
    (blueprint,) = BLUEPRINTS
    (inner,) = read(blueprint)["definitions"]["subgraphs"]
    ids = [link["id"] for link in inner["links"]]
    assert len(ids) == len(set(ids))
    for socket in inner["inputs"] + inner["outputs"]:
        assert socket["linkIds"] and len(socket["linkIds"]) == len(set(socket["linkIds"])), socket["name"]
        assert set(socket["linkIds"]) <= set(ids), socket["name"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_nodes_do_not_cover_each_other(path: Path):
    title = 30
    boxes = [(n["pos"], n["size"]) for n in read(path)["nodes"]]
    for i, ((x, y), (w, h)) in enumerate(boxes):
        for (u, v), (p, q) in boxes[:i]:
            apart = x >= u + p or u >= x + w or y - title >= v + q or v - title >= y + h
            assert apart, ((x, y), (u, v))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_the_thumbnail_is_a_small_square(path: Path):
    """Templates are shown as squares; other shapes lose their sides."""
    picture = path.with_suffix(".jpg")
    with Image.open(picture) as image:
        assert image.format == "JPEG" and image.width == image.height >= 400
    assert picture.stat().st_size < 100_000


def test_no_two_workflows_have_the_same_thumbnail():
    pictures = [path.with_suffix(".jpg").read_bytes() for path in WORKFLOWS]
    assert len(set(pictures)) == len(pictures)
