"""Contract: inside ComfyUI the nodes obey their laws and fill the frames that the headless host fills.

The laws themselves are in inside.py and run in the host's own interpreter, on a random toy in float32.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.comfyui import LAYERS, comfyui, interpreter, random_adapter, toy, unpack
from tests.svd.toys import toy_framer, toy_svd, tuned_unet
from vfi_core.adapter import PRESETS, Options, save_adapter
from vfi_core.cli import main
from vfi_core.config import METHODS
from vfi_core.media import write_picture
from vfi_core.svd.interpolate import interpolate
from vfi_core.svd.load import load_svd, save_single_file
from vfi_core.svd.settings import Settings
from vfi_core.timeline import even_timeline
from vfi_core.weights import load_weights

INSIDE = Path(__file__).with_name("inside.py")
SERVED = Path(__file__).with_name("served.py")


def laws(script: Path) -> list[str]:
    """Names of a script's laws, read without running it: it imports the host."""
    body = ast.parse(script.read_text(encoding="utf-8")).body
    functions = [s.name for s in body if isinstance(s, (ast.FunctionDef, ast.AsyncFunctionDef))]
    return [name for name in functions if name.startswith("check_")]


ADAPTERS = {
    "paper": PRESETS["paper"],
    "fast": PRESETS["fast"],
    # the same conditioning as a base without adapter
    "plain": Options(encoder_input="keyframes", encoder_weights="lora", kf_join="token"),
    # what no preset chooses
    "odd": Options(
        encoder_weights="lora",
        kf_pool=2,
        kf_where="encoder",
        clip_tokens="mean",
        uncond_hint="dropped",
        known_frames="clean",
    ),
}

COMFYUI = comfyui()
pytestmark = [
    pytest.mark.comfyui,
    pytest.mark.skipif(
        COMFYUI is None and not os.environ.get("CI"), reason="no ComfyUI: set COMFYUI_PATH to a checkout"
    ),
]


def furnish(folder: Path) -> None:
    """The files inside.py and served.py work with, and the headless host's films."""
    unpack(folder / "pack")
    save_single_file(toy(), folder / "toy.safetensors", torch.float32)
    save_single_file(toy_svd(layers=1), folder / "other.safetensors", torch.float32)
    (folder / "config.json").write_text(json.dumps(toy().config))
    for name, options in ADAPTERS.items():
        save_adapter(random_adapter(options), folder / f"{name}.safetensors", torch.float32)
    save_file(toy_framer(LAYERS), folder / "framer.safetensors")
    coarse = torch.rand(3, 3, 6, 9, generator=torch.Generator().manual_seed(3))
    # not square, and no multiple of 64: the model works at 64x128
    keyframes = torch.nn.functional.interpolate(coarse, (64, 96), mode="bicubic").clamp(0, 1)
    keyframes = (keyframes.permute(0, 2, 3, 1) * 255).round().contiguous() / 255  # as a picture file has them
    save_file({"keyframes": keyframes}, folder / "keyframes.safetensors")
    settings = Settings(steps=3, seed=5, guidance=(1.0, 2.0))
    svd = load_svd(folder / "toy.safetensors")
    for name in ("paper", "fast", "odd", "none", "framer"):
        adapter = None if name == "none" else load_weights(folder / f"{name}.safetensors")
        size = (64, 128) if name == "framer" else None  # not the 320x512 of Framer's training
        for method in METHODS:
            given = list(keyframes if method == "held" else keyframes[:2])
            film = interpolate(svd, given, replace(settings, method=method, size=size), adapter)
            save_file({"film": film}, folder / f"{method}_{name}.safetensors")
    film = interpolate(svd, list(keyframes), replace(settings, churn=2.0))
    save_file({"film": film}, folder / "churned.safetensors")
    timeline = even_timeline(3, 8, 7.0, loop=True, skipped=frozenset({0}))
    locked = replace(settings, colour_lock=True)
    film = interpolate(svd, list(keyframes), locked, timeline=timeline, reseeded={2: 77})
    save_file({"film": film}, folder / "timeline.safetensors")
    shutil.copy(trained(folder), folder / "trained.safetensors")
    film = interpolate(svd, list(keyframes), settings, load_weights(folder / "trained.safetensors"))
    save_file({"film": film}, folder / "held_trained.safetensors")
    save_file(tuned_unet(toy()), folder / "tuned.safetensors")
    tuned = load_weights(folder / "tuned.safetensors")
    film = interpolate(svd, list(keyframes[:2]), replace(settings, method="reversed"), tuned)
    save_file({"film": film}, folder / "reversed_tuned.safetensors")


def trained(folder: Path) -> Path:
    """An adapter of the toy as `svd-vfi train` leaves it, after two steps on eight random pictures."""
    pictures = folder / "footage" / "noise"
    pictures.mkdir(parents=True)
    for i in range(8):
        noise = torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(i))
        write_picture((noise * 255).byte(), pictures / f"{i}.png")
    (folder / "adapter.toml").write_text(
        f"""
        kind = "adapter"
        base = {json.dumps(str(folder / "toy.safetensors"))}
        clips = {{ root = {json.dumps(str(pictures.parent))}, frames = 7, procedural = 0.0, pool = 2 }}
        train = {{ steps = 2, batch = 1, warmup = 1, lr = 0.01 }}
        """
    )
    assert main(["train", str(folder / "adapter.toml"), "-o", str(folder / "run"), "--device", "cpu"]) == 0
    return folder / "run" / "adapter.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if COMFYUI is None:
        pytest.fail("CI is set and there is no ComfyUI; set COMFYUI_PATH to a checkout", pytrace=False)
    folder = tmp_path_factory.mktemp("host")
    furnish(folder)
    return folder


@pytest.fixture(scope="module")
def verdicts(folder: Path) -> dict[Path, dict[str, str | None]]:
    """What went wrong in each law of either script, or None. Both run at once, on one thread each."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    running = {}
    for script in (INSIDE, SERVED):
        command = [interpreter(COMFYUI), str(script), str(COMFYUI), str(folder)]
        with (folder / f"{script.stem}.log").open("w") as log:
            running[script] = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
    try:
        for script, process in running.items():
            code = process.wait(timeout=900)
            assert code == 0, (folder / f"{script.stem}.log").read_text(errors="replace")[-6000:]
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    return {script: json.loads((folder / f"{script.stem}.json").read_text()) for script in running}


@pytest.mark.parametrize("law", laws(INSIDE))
def test_inside_the_host(verdicts: dict[Path, dict[str, str | None]], law: str):
    if error := verdicts[INSIDE][law]:
        pytest.fail(error, pytrace=False)


@pytest.mark.parametrize("law", laws(SERVED))
def test_on_a_server(verdicts: dict[Path, dict[str, str | None]], law: str):
    if error := verdicts[SERVED][law]:
        pytest.fail(error, pytrace=False)
