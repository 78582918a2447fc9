"""The floors of the house: who may import whom, read from the source of every module.

The table is the law (CONTRIBUTING.md, "Floors"). Imports inside functions and under
TYPE_CHECKING count as well.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from graphlib import CycleError, TopologicalSorter
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Room:
    """What the modules of a room may import besides the standard library and each other."""

    packages: set[str]
    rooms: set[str]


NUMBERS = {"torch", "numpy", "einops", "safetensors"}
DATA = {"vfi_core/tiny", "vfi_core/samples"}  # bundled files and their names; anyone may ask where they are

# A room is a folder, or the files that stand apart from their folder.
TABLE = {
    # floor 1: the method
    "vfi_core": Room(NUMBERS, {*DATA}),
    "vfi_core/tiny": Room(set(), set()),
    "vfi_core/samples": Room({"torch", "numpy", "PIL"}, set()),
    # floor 2: the hosts, the trainer, the measurements, pictures and films
    "vfi_core/media": Room({"torch", "numpy", "PIL", "av"}, set()),
    "vfi_core/svd": Room(NUMBERS | {"diffusers", "transformers"}, {"vfi_core", *DATA}),
    "vfi_core/training": Room(
        NUMBERS
        | {"diffusers", "transformers", "peft", "accelerate", "av", "tqdm", "tomli"}
        | {"matplotlib", "bitsandbytes"},
        {"vfi_core", "vfi_core/svd", "vfi_core/media", *DATA},
    ),
    "vfi_core/evaluation": Room(
        NUMBERS | {"PIL", "av", "cv2", "skimage", "flip_evaluator", "torchmetrics", "tqdm", "jinja2"},
        {"vfi_core", "vfi_core/media", *DATA},
    ),
    "nodes/host": Room(NUMBERS | {"comfy", "latent_preview"}, {"vfi_core", *DATA}),
    # floor 3: what a person sees
    "vfi_core/cli[._]*": Room(
        NUMBERS | {"tqdm"},
        {"vfi_core", "vfi_core/media", "vfi_core/svd", "vfi_core/training", "vfi_core/evaluation", *DATA},
    ),
    "nodes": Room(NUMBERS | {"comfy_api", "folder_paths"}, {"nodes/host", "vfi_core", *DATA}),
    # the door ComfyUI opens
    "__init__.py": Room(set(), {"nodes"}),
}


def modules(*tops: str) -> list[PurePosixPath]:
    """Every Python file under the given folders or files, relative to the root."""
    found = [p for top in tops for p in [ROOT / top, *sorted((ROOT / top).rglob("*.py"))] if p.is_file()]
    return [PurePosixPath(p.relative_to(ROOT).as_posix()) for p in found]


def room_of(path: PurePosixPath) -> str:
    """The room a module lives in: its own, or the nearest folder that the table knows."""
    files = [room for room in TABLE if fnmatch(str(path), room)]
    folders = [str(folder) for folder in path.parents if str(folder) in TABLE]
    for room in files + folders:
        return room
    raise ValueError(f"{path} stands in no room of the table; give it one in tests/test_floors.py")


def imports(path: PurePosixPath, source: str) -> Iterator[tuple[str, bool]]:
    """Dotted names a module imports, each with whether the import is relative (then seen from the root)."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield str(node.module), False
        elif isinstance(node, ast.ImportFrom):
            package = path.parts[: len(path.parts) - node.level]
            base = ".".join([*package, *(node.module or "").split(".")]).rstrip(".")
            yield from (((f"{base}.{alias.name}").lstrip("."), True) for alias in node.names)
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("__import__", "import_module"):
                yield called, False


def resolve(name: str, known: set[PurePosixPath]) -> PurePosixPath:
    """The file behind a dotted name of ours; `a.b.c` is the module c, or the name c out of the module b."""
    parts = name.split(".")
    for end in (len(parts), len(parts) - 1):
        stem = PurePosixPath(*parts[:end])
        for candidate in (stem.with_name(f"{stem.name}.py") if stem.name else stem, stem / "__init__.py"):
            if candidate in known:
                return candidate
    return PurePosixPath(*parts).with_suffix(".py")  # not written yet: its room still counts


def breaches(path: PurePosixPath, source: str, known: set[PurePosixPath]) -> list[str]:
    """One sentence for each import of a module that the table does not allow."""
    room = room_of(path)
    law, found = TABLE[room], []
    for name, relative in imports(path, source):
        top = name.split(".")[0]
        if relative:
            other = room_of(resolve(name, known))
            if other != room and other not in law.rooms:
                found.append(f"{path} ({room}) imports {name} of {other}, a room it may not know")
        elif top in ("__import__", "import_module"):
            found.append(f"{path} imports by {top}, which no table can read")
        elif top in ("vfi_core", "nodes"):
            found.append(f"{path} imports {name} absolutely; inside ComfyUI only relative imports find it")
        elif top not in law.packages and top not in sys.stdlib_module_names:
            found.append(f"{path} ({room}) imports {name}, a package its room may not know")
    return found


OUTSIDE = {"subprocess", "socket", "urllib", "http", "ftplib", "requests", "pip", "multiprocessing"}
OUTSIDE |= {"asyncio", "ssl", "runpy", "ctypes", "webbrowser", "builtins"}
RUN = {"eval", "exec", "compile"}
REACHED = {"system", "popen", "hub", "spawnl", "spawnv", "execl", "execv", "execve", "execvp", "startfile"}
HOUSE = modules("vfi_core", "nodes", "__init__.py")
KNOWN = set(HOUSE)


@pytest.mark.parametrize("path", HOUSE, ids=str)
def test_a_module_imports_only_what_its_room_may_know(path: PurePosixPath):
    assert breaches(path, (ROOT / path).read_text(encoding="utf-8"), KNOWN) == []


@pytest.mark.parametrize(
    ("path", "source", "expected"),
    [
        ("vfi_core/edm.py", "import diffusers", "package its room"),
        ("vfi_core/edm.py", "def f():\n    from comfy.ldm import util", "package its room"),
        ("vfi_core/edm.py", "from .svd.load import SVD", "of vfi_core/svd"),
        ("vfi_core/edm.py", "from .svd import load", "of vfi_core/svd"),
        ("vfi_core/edm.py", "from . import media", "of vfi_core/media"),
        ("vfi_core/edm.py", "from vfi_core.keyframes import hint", "absolutely"),
        ("vfi_core/edm.py", "import importlib\nimportlib.import_module('diffusers')", "no table can read"),
        ("vfi_core/media/read.py", "from ..keyframes import hint", "of vfi_core"),
        ("vfi_core/svd/load.py", "from ..training.clips import read_video", "of vfi_core/training"),
        ("vfi_core/svd/load.py", "import peft", "package its room"),
        ("vfi_core/evaluation/table.py", "from ..svd.interpolate import Settings", "of vfi_core/svd"),
        ("vfi_core/cli_inspect.py", "from diffusers import x", "package its room"),
        ("nodes/keyframes.py", "import comfy.model_patcher", "package its room"),
        ("nodes/host/patch.py", "from comfy_api.latest import io", "package its room"),
        ("nodes/host/patch.py", "from ..keyframes import Node", "of nodes"),
    ],
)
def test_a_wrong_import_is_caught(path: str, source: str, expected: str):
    found = breaches(PurePosixPath(path), source, KNOWN | {PurePosixPath(path)})
    assert len(found) == 1 and expected in found[0]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("vfi_core/attention.py", "import math\nfrom einops import rearrange\nfrom .keyframes import hint"),
        ("vfi_core/svd/hooks.py", "from diffusers.models import x\nfrom ..attention import install"),
        ("vfi_core/cli.py", "def f():\n    from .training import loop\n    from .tiny import TINY"),
        ("nodes/host/patch.py", "import comfy.model_patcher\nfrom ...vfi_core.attention import install"),
        ("__init__.py", "if __package__:\n    from .nodes import comfy_entrypoint"),
    ],
)
def test_a_right_import_is_let_through(path: str, source: str):
    assert breaches(PurePosixPath(path), source, KNOWN) == []


def doors(path: PurePosixPath, source: str) -> list[str]:
    """What starts a program, opens a connection or runs text as code."""
    found = [name for name, _ in imports(path, source) if name.split(".")[0] in OUTSIDE]
    tree = list(ast.walk(ast.parse(source)))
    named = [node.id for node in tree if isinstance(node, ast.Name) and node.id in RUN]
    reached = [node.attr for node in tree if isinstance(node, ast.Attribute) and node.attr in REACHED]
    return found + named + reached


@pytest.mark.parametrize("path", HOUSE, ids=str)
def test_nothing_starts_programs_opens_connections_or_runs_text(path: PurePosixPath):
    """The registry's rule, and plain manners: what is installed is all that runs."""
    assert doors(path, (ROOT / path).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import subprocess",
        "from urllib import request",
        "f = eval('1')",
        "import os\nos.system('x')",
        "import torch\ntorch.hub.load('x', 'y')",
        "import os\nos.execv('x', [])",
        "import asyncio",
    ],
)
def test_an_open_door_is_seen(source: str):
    assert doors(PurePosixPath("nodes/fill.py"), source)


def test_no_two_modules_import_each_other_in_a_circle():
    graph = {
        path: {
            resolve(name, KNOWN) for name, relative in imports(path, (ROOT / path).read_text()) if relative
        }
        for path in HOUSE
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(map(str, error.args[1])))


def test_the_two_hosts_meet_only_in_the_parity_tests():
    for path in modules("tests"):
        tops = {name.split(".")[0] for name, _ in imports(path, (ROOT / path).read_text(encoding="utf-8"))}
        if "parity" not in path.parts:
            assert not {"comfy", "diffusers"} <= tops, f"{path} belongs in tests/parity"


def test_every_room_of_vfi_core_is_a_package_and_so_goes_into_the_wheel():
    folders = {(ROOT / path).parent for path in modules("vfi_core")}
    assert [str(f) for f in sorted(folders) if not (f / "__init__.py").is_file()] == []


def loaded_after(statement: str) -> set[str]:
    """Top-level modules in a fresh interpreter after a statement."""
    code = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_importing_vfi_core_takes_no_heavy_import():
    loaded = loaded_after("import vfi_core, vfi_core.samples, vfi_core.tiny, vfi_core.cli")
    assert not loaded & {"torch", "numpy", "diffusers", "transformers", "peft", "av", "PIL", "cv2"}


def test_the_method_loads_without_a_host_or_a_trainer():
    floor_1 = [".".join(p.with_suffix("").parts) for p in modules("vfi_core") if room_of(p) == "vfi_core"]
    loaded = loaded_after("\n".join(f"import {name.removesuffix('.__init__')}" for name in floor_1))
    assert "torch" in loaded
    assert not loaded & {"comfy", "diffusers", "transformers", "peft", "accelerate", "av", "PIL", "cv2"}
