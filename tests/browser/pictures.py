"""Draws anew what the help pages, README and the registry show: nodes as the editor draws them, what comes of
them, the editor itself, icon and banner.

    python -m tests.browser.pictures [brand]

Needs what test_editor.py needs; with ``brand`` nothing but PIL. Nodes' pictures go to
web/docs/<node id>/node.png, results beside the pages.
"""

from __future__ import annotations

import json
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from playwright.sync_api import sync_playwright

from tests.browser.editor import FLAGS, Editor, chromium, installed, serving
from tests.comfyui import ROOT, comfyui
from vfi_core.samples.draw import truth

WEB, DOCS = ROOT / "web", ROOT / "web/docs"
MARGIN = 24  # pixels around a node


def nodes(editor: Editor) -> None:
    """Every node of ours on an empty canvas, half as large again, cut out."""
    editor.page.set_viewport_size({"width": 1600, "height": 1300})
    editor.ask("() => app.extensionManager.setting.set('Comfy.NodeBadge.NodeSourceBadgeMode', 'None')")
    for page in sorted(DOCS.glob("*.md")):
        editor.clear()
        editor.look(-100, -60, 1.5)
        key = editor.add(page.stem, 0, 0)
        editor.page.wait_for_timeout(500)
        left, top, right, bottom = editor.ask(
            """id => { const n = app.graph.getNodeById(id), c = app.canvas;
                const box = c.canvas.getBoundingClientRect();
                const [a, b] = c.ds.convertOffsetToCanvas([n.pos[0], n.pos[1] - 30]);
                const [u, v] = c.ds.convertOffsetToCanvas([n.pos[0] + n.size[0], n.pos[1] + n.size[1]]);
                return [box.left + a, box.top + b, box.left + u, box.top + v]; }""",
            key,
        )
        target = DOCS / page.stem / "node.png"
        target.parent.mkdir(exist_ok=True)
        clip = {
            "x": left - MARGIN,
            "y": top - MARGIN,
            "width": right - left + 2 * MARGIN,
            "height": bottom - top + 2 * MARGIN,
        }
        editor.page.screenshot(path=target, clip=clip)
        with Image.open(target) as picture:
            picture.convert("P", palette=Image.Palette.ADAPTIVE, colors=128).save(target, optimize=True)


def results(editor: Editor, output: Path) -> None:
    """film.jpg; adapter.jpg, with the adapter and without it below; gap.jpg, before it is filled; cuts.jpg, a
    film of two scenes.
    """
    quick = json.loads((ROOT / "tests/host/api/quick_start.json").read_text())
    load, film = (
        next(key for key, node in quick.items() if node["class_type"] == f"SVDVFI{kind}")
        for kind in ("LoadCheckpoint", "Interpolate")
    )
    told = quick[film]["inputs"]
    given = {name: told[name] for name in ("images", "last_image")}
    shared = {key: node for key, node in quick.items() if node["class_type"].startswith(("Load", "SVDVFI"))}

    def node(kind: str, **inputs: Any) -> dict:
        return {"class_type": f"SVDVFI{kind}", "inputs": inputs}

    places = {"in_betweens": 0, "positions": "", "fps": 0.0, "size": "trained size", "loop": False, "seed": 0}
    bare = {
        "plain": node("LoadCheckpoint", **quick[load]["inputs"] | {"adapter_name": "none"}),
        "without": node("Interpolate", **told | {"adapter": ["plain", 3]}),
    }
    empty = {
        "keys": node("Keyframes", vae=[load, 2], adapter=[load, 3], **given, **places),
        "open": node("Decode", vae=[load, 2], latent=["keys", 1], keyframes=["keys", 0], colour_lock=False),
    }
    marks = {"keyframe_indices": [film, 2], "columns": 0}
    sheets = {
        "film": {"sheet": node("ContactSheet", images=[film, 0], **marks)},
        "adapter": bare
        | {"sheet": node("ContactSheet", images=[film, 0], compare_with=["without", 0], **marks)},
        "gap": empty | {"sheet": node("ContactSheet", images=["open", 0], **marks)},
    }
    graphs = {name: shared | own for name, own in sheets.items()}
    cuts = json.loads((ROOT / "tests/host/api/scene_cuts.json").read_text())
    graphs["cuts"] = {
        "sheet" if node["class_type"] == "SVDVFIContactSheet" else key: node
        for key, node in cuts.items()
        if node["class_type"].startswith(("Load", "ImageBatch", "SVDVFI"))
    }
    for name, graph in graphs.items():
        save = {"class_type": "SaveImage", "inputs": {"images": ["sheet", 0], "filename_prefix": name}}
        body = json.dumps({"prompt": graph | {"save": save}}).encode()
        request = urllib.request.Request(f"{editor.url}/prompt", body, {"Content-Type": "application/json"})
        urllib.request.urlopen(request).close()
        for _ in range(180):
            editor.page.wait_for_timeout(1000)
            if done := list(output.glob(f"{name}_*.png")):
                editor.page.wait_for_timeout(1000)  # until it is whole
                break
        else:
            raise SystemExit((output.parent / "server.log").read_text()[-3000:])
        with Image.open(done[0]) as picture:
            picture.thumbnail((1100, 600), Image.Resampling.LANCZOS)
            picture.convert("RGB").save(DOCS / f"{name}.jpg", quality=88)


def screenshots(editor: Editor) -> None:
    """web/quick_start.jpg: the editor after the first film."""
    page = editor.page
    page.set_viewport_size({"width": 1600, "height": 950})
    editor.drop("quick_start", json.loads((ROOT / "workflows/quick_start.json").read_text()))
    editor.look(0, -180, 0.7)
    editor.run()
    page.get_by_test_id("toggle-minimap-button").click()
    page.mouse.move(1500, 700)
    page.wait_for_timeout(7500)  # the message that the job is done goes away
    page.screenshot(path=WEB / "quick_start.jpg", type="jpeg", quality=85)


def brand() -> None:
    """icon.png, square: a moon on its way; banner.png, 21:9: its film, the drawn in-betweens held back."""

    def frames(count: int, size: int) -> list[Image.Image]:
        return [Image.fromarray(frame.numpy()) for frame in truth("orbit", count, size)]

    way = frames(7, 800)
    icon = Image.blend(way[0], way[-1], 0.5)
    for frame, share in zip((way[1], way[3], way[5]), (0.2, 0.25, 0.2), strict=True):
        icon = Image.blend(icon, frame, share)
    icon.resize((400, 400), Image.Resampling.LANCZOS).save(WEB / "icon.png", optimize=True)

    banner = Image.new("RGB", (1680, 720), (24, 24, 24))
    for i, frame in enumerate(frames(4, 392)):
        x = 22 + i * 414
        if i in (0, 3):
            banner.paste((255, 150, 0), (x - 6, 284 - 6, x + 398, 284 + 398))
        else:
            frame = Image.blend(frame, Image.new("RGB", frame.size, (24, 24, 24)), 0.6)
        banner.paste(frame, (x, 284))
    draw = ImageDraw.Draw(banner)
    draw.text((22, 60), "SVD Video Frame Interpolation", "#f6e3c5", ImageFont.load_default(96))
    draw.text((24, 190), "two pictures in, the film between them out", "#55b3b0", ImageFont.load_default(48))
    banner.resize((1260, 540), Image.Resampling.LANCZOS).save(WEB / "banner.png", optimize=True)


def main() -> None:
    brand()
    if sys.argv[1:] == ["brand"]:
        return
    comfy = comfyui()
    if comfy is None or chromium() is None:
        raise SystemExit("needs a ComfyUI (COMFYUI_PATH) and Chromium")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as p:
        base = installed(Path(folder), "svd-vfi")
        with serving(comfy, base) as url:
            browser = p.chromium.launch(executable_path=chromium(), args=FLAGS)
            context = browser.new_context(viewport={"width": 1600, "height": 950})
            editor = Editor(context.new_page(), url, base)
            nodes(editor)
            results(editor, base / "output")
            screenshots(editor)
            browser.close()


if __name__ == "__main__":
    main()
