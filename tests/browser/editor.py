"""ComfyUI's editor in a real browser: what a person does with the mouse, and what a test asks of the page."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.comfyui import interpreter, unpack

BOOT = 180  # seconds
MISSING = r"missing node|nodes? (is|are) missing|nodes? .*not found"  # a toast; in 1.27 a dialog
# Without the background's own connections, and without a sandbox that needs a user other than root.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def installed(base: Path, name: str) -> Path:
    """An empty base folder of ComfyUI's with this pack alone, as its archive unpacks, under ``name``."""
    for folder in ("custom_nodes", "input", "output", "temp", "user", "models"):
        (base / folder).mkdir()
    unpack(base / "custom_nodes" / name)
    return base


@contextlib.contextmanager
def serving(comfy: Path, base: Path, frontend: Path | None = None) -> Iterator[str]:
    """The address of a ComfyUI on the processor while it runs; ``base`` holds its models, nodes and films."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [interpreter(comfy), str(comfy / "main.py"), "--cpu", "--disable-auto-launch"]
    command += ["--listen", "127.0.0.1", "--port", str(port), "--base-directory", str(base)]
    command += ["--database-url", f"sqlite:///{base / 'comfyui.db'}", "--preview-method", "latent2rgb"]
    if frontend:
        command += ["--front-end-root", str(frontend)]
    log = base / "server.log"
    with (
        log.open("w") as out,
        subprocess.Popen(command, cwd=base, stdout=out, stderr=subprocess.STDOUT) as process,
    ):
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(BOOT):
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"{url}/system_stats", timeout=5).close()
                    break
                if process.poll() is not None:
                    break
                time.sleep(1)
            else:
                process.kill()
                process.wait()
            if process.poll() is not None:
                raise RuntimeError(log.read_text()[-3000:])
            yield url
        finally:
            process.terminate()


class Editor:
    """A page with ComfyUI's editor. ``page`` is Playwright's."""

    def __init__(self, page: Any, url: str, pictures: Path) -> None:
        self.page, self.url, self.pictures = page, url, pictures
        page.goto(url)
        self.ready()

    def ready(self) -> None:
        self.page.wait_for_function("() => window.app?.graph && window.app.extensionManager", timeout=120_000)
        # text also on small pictures of large graphs
        self.ask("() => { if (LiteGraph.Canvas) LiteGraph.Canvas.MinFontSizeForLOD = 0; }")
        self.page.wait_for_timeout(2500)  # a first visit opens the templates over the canvas
        self.page.keyboard.press("Escape")
        self.page.wait_for_timeout(500)

    def ask(self, expression: str, argument: Any = None) -> Any:
        return self.page.evaluate(expression, argument)

    def picture(self, name: str) -> None:
        self.page.screenshot(path=self.pictures / f"{name}.png")

    def clear(self) -> None:
        """An empty canvas. Nodes' numbers go on: the editor (1.49) remembers widgets' values by them."""
        self.ask(
            "() => { const last = app.graph.last_node_id; app.graph.clear(); app.graph.last_node_id = last; "
            "app.nodeOutputs = {}; }"
        )

    def drop(self, name: str, graph: dict) -> None:
        """A workflow file dropped on the canvas."""
        self.ask(
            """([text, name]) => {
                const data = new DataTransfer();
                data.items.add(new File([text], name, {type: 'application/json'}));
                for (const kind of ['dragenter', 'dragover', 'drop'])
                    app.canvas.canvas.dispatchEvent(new DragEvent(kind, {
                        dataTransfer: data, bubbles: true, cancelable: true, clientX: 600, clientY: 400}));
            }""",
            [json.dumps(graph), f"{name}.json"],
        )
        self.page.wait_for_function(
            "n => app.graph._nodes.length === n", arg=len(graph["nodes"]), timeout=30_000
        )
        self.page.wait_for_timeout(2000)  # toasts

    def run(self) -> None:
        """Run pressed, until the page shows the finished film and the sheet of its frames."""
        self.page.get_by_test_id("queue-button").click()
        self.page.wait_for_function("() => document.querySelector('video')?.readyState >= 2", timeout=240_000)
        self.page.wait_for_function(
            "() => app.graph._nodes.some(n => n.type === 'PreviewImage' && n.imgs?.length)"
        )

    def missing(self) -> list[str]:
        """What the page itself says of nodes it does not know."""
        text = self.page.locator("body").inner_text().splitlines()
        return [line for line in text if re.search(MISSING, line, re.IGNORECASE)]

    def knows(self, kind: str) -> bool:
        return self.ask("kind => kind in LiteGraph.registered_node_types", kind)

    def types(self) -> list[str]:
        return sorted(self.ask("() => app.graph._nodes.map(n => n.type)"))

    def add(self, kind: str, x: float, y: float) -> int:
        return self.ask(
            """([kind, x, y]) => {
                const node = LiteGraph.createNode(kind);
                app.graph.add(node);
                node.pos = [x, y];
                return node.id;
            }""",
            [kind, x, y],
        )

    def look(self, x: float, y: float, scale: float = 1.0) -> None:
        """The canvas moved so that (x, y) of the graph is near the upper left corner."""
        self.ask(
            "([x, y, s]) => { app.canvas.ds.scale = s; app.canvas.ds.offset = [160 / s - x, 160 / s - y]; "
            "app.canvas.setDirty(true, true); }",
            [x, y, scale],
        )
        self.page.wait_for_timeout(500)

    def search(self, name: str, picture: str = "") -> None:
        """The node of this name added at an empty place by a double click and the keyboard."""
        before = len(self.types())
        self.look(-2000, 3000 * before)
        self.page.wait_for_timeout(500)
        for _ in range(3):  # on a busy machine two clicks may come too far apart to be a double one
            self.page.mouse.dblclick(700, 500)
            self.page.wait_for_timeout(1500)
            if self.page.locator("input:focus").count():
                break
        self.page.keyboard.type(name, delay=10)
        self.page.wait_for_timeout(900)
        if picture:
            self.picture(picture)
        self.page.keyboard.press("Enter")
        self.page.wait_for_function("n => app.graph._nodes.length > n", arg=before)
        self.page.wait_for_timeout(500)
        self.page.mouse.click(700, 700)  # a new node hangs on the pointer until it is put down
        self.page.wait_for_timeout(500)

    def place(self, node: int, kind: str, slot: str | None = None) -> tuple[float, float]:
        """Where on the page a node's title is, or one of its ``input`` or ``output`` sockets."""
        x, y = self.ask(
            """([id, kind, slot]) => {
                const node = app.graph.getNodeById(id), canvas = app.canvas;
                let at = [node.pos[0] + 70, node.pos[1] - 14];
                if (kind === 'input') at = node.getInputPos(node.inputs.findIndex(i => i.name === slot));
                if (kind === 'output') at = node.getOutputPos(node.outputs.findIndex(o => o.name === slot));
                const box = canvas.canvas.getBoundingClientRect();
                const [x, y] = canvas.ds.convertOffsetToCanvas(at);
                return [box.left + x, box.top + y];
            }""",
            [node, kind, slot],
        )
        return x, y

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        self.page.mouse.move(*start)
        self.page.mouse.down()
        self.page.mouse.move((start[0] + end[0]) / 2, (start[1] + end[1]) / 2, steps=8)
        self.page.mouse.move(*end, steps=8)
        self.page.wait_for_timeout(200)
        self.page.mouse.up()
        self.page.wait_for_timeout(400)

    def links(self) -> set[tuple[str, str, str]]:
        """(node type, input, origin's type) of every link."""
        found = self.ask(
            """() => app.graph._nodes.flatMap(n => (n.inputs || []).filter(i => i.link != null).map(i =>
                [n.type, i.name, app.graph.getNodeById(app.graph.getLink(i.link).origin_id).type]))"""
        )
        return {tuple(link) for link in found}


def chromium() -> str | None:
    """Debian's, or the one CHROMIUM names."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium")
