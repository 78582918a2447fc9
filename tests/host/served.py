"""Laws of the pack on a running ComfyUI server; run by the host's own interpreter, never by pytest.

    python served.py <ComfyUI> <folder>

A server of its own on a free loopback port, with this pack as its archive unpacks, under a name with a dash;
``folder`` is furnished by test_nodes.py. Each ``check_*`` is one law, in order; ``served.json`` gets the
traceback of each that does not hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import numpy
import psutil
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).parents[2]
GRAPHS = Path(__file__).with_name("api")
BOOT = 180  # seconds; 9 to 17 were measured on a quiet machine
NODES = 13
TINY, FAST = "tiny SVD (bundled miniature)", "fast (bundled, for tiny SVD)"


class Server:
    """A ComfyUI in a process of its own, and what one says to it."""

    def __init__(
        self, comfy: Path, folder: Path, options: Sequence[str] = ("--cpu",), pack: Path = ROOT
    ) -> None:
        self.comfy, self.folder, self.options, self.base = comfy, folder, options, folder / "base"
        for name in ("custom_nodes", "input", "output", "temp", "user"):
            (self.base / name).mkdir(parents=True)
        for name in ("checkpoints", "svd_vfi"):
            (self.base / "models" / name).mkdir(parents=True)
        (self.base / "custom_nodes" / "another-name").symlink_to(pack, target_is_directory=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Server:
        options = {
            "--listen": "127.0.0.1",
            "--port": self.port,
            "--base-directory": self.base,
            "--preview-method": "latent2rgb",
        }
        command = [sys.executable, str(self.comfy / "main.py"), "--disable-auto-launch", *self.options]
        command += [str(part) for option in options.items() for part in option]
        self.log = (self.folder / "server.log").open("w")
        self.process = subprocess.Popen(command, cwd=self.base, stdout=self.log, stderr=subprocess.STDOUT)
        self.session = aiohttp.ClientSession()
        for _ in range(BOOT):
            with contextlib.suppress(aiohttp.ClientError):
                async with self.session.get(f"{self.url}/system_stats"):
                    return self
            if self.process.poll() is not None:
                break
            await asyncio.sleep(1)
        raise RuntimeError((self.folder / "server.log").read_text()[-3000:])

    async def __aexit__(self, *_: Any) -> None:
        await self.session.close()
        self.process.terminate()
        self.process.wait(30)
        self.log.close()

    async def get(self, path: str) -> Any:
        async with self.session.get(f"{self.url}{path}") as answer:
            assert answer.status == 200, (path, answer.status)
            return await answer.json()

    async def post(self, path: str, body: dict) -> tuple[int, Any]:
        async with self.session.post(f"{self.url}{path}", json=body) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text else None

    async def run(self, graph: dict, react: Callable[[str, dict], bool] = lambda kind, data: False) -> Any:
        """What the server says while it runs a graph: messages, previews, the saved frames.

        react  called with each message; True interrupts the run
        """
        messages, previews = [], 0
        async with self.session.ws_connect(f"{self.url}/ws?clientId=test", max_msg_size=2**26) as channel:
            status, answer = await self.post("/prompt", {"prompt": graph, "client_id": "test"})
            assert status == 200, answer
            while True:
                message = await channel.receive(timeout=BOOT)
                if message.type == aiohttp.WSMsgType.BINARY:
                    previews += 1
                    continue
                told = json.loads(message.data)
                kind, data = told["type"], told.get("data", {})
                messages.append((kind, data))
                if react(kind, data):
                    await self.post("/interrupt", {})
                ended = kind in ("execution_success", "execution_error", "execution_interrupted")
                if ended and data.get("prompt_id") == answer["prompt_id"]:
                    break
        return Outcome(messages, previews, self.base / "output")


class Outcome:
    def __init__(self, messages: list, previews: int, folder: Path) -> None:
        self.messages, self.previews, self.folder = messages, previews, folder

    @property
    def end(self) -> str:
        return self.messages[-1][0]

    @property
    def error(self) -> str:
        return next((d["exception_message"] for k, d in self.messages if k == "execution_error"), "")

    def of(self, kind: str) -> list[dict]:
        return [data for k, data in self.messages if k == kind]

    def frames(self) -> torch.Tensor:
        """[T, H, W, 3] uint8, of the graph's one SaveImage."""
        assert self.end == "execution_success", (self.end, self.error)
        told = [image for data in self.of("executed") for image in (data["output"] or {}).get("images", [])]
        files = [file for file in told if file["type"] == "output" and file["filename"].endswith(".png")]
        assert files, self.messages
        paths = [self.folder / f["subfolder"] / f["filename"] for f in files]
        return torch.stack([torch.from_numpy(numpy.array(Image.open(p).convert("RGB"))) for p in paths])


def furnish(server: Server) -> None:
    """What the graphs of this folder name: the toy, its adapters, something that is none, the keyframes."""
    models, folder = server.base / "models", server.folder
    shutil.copy(folder / "toy.safetensors", models / "checkpoints")
    for name in ("fast", "paper"):
        shutil.copy(folder / f"{name}.safetensors", models / "svd_vfi")
    shutil.copy(folder / "toy.safetensors", models / "svd_vfi" / "no_adapter.safetensors")
    with contextlib.suppress(ImportError):  # 0.3.64 has no FILM. Here it draws nothing: its weights are zero
        sys.path.insert(0, str(server.comfy))
        from comfy.cli_args import args

        args.cpu = True
        from comfy_extras.frame_interpolation_models.film_net import FILMNet

        nothing = {name: torch.zeros_like(value).half() for name, value in FILMNet().state_dict().items()}
        (models / "frame_interpolation").mkdir()
        save_file(nothing, models / "frame_interpolation" / "film_net_fp16.safetensors")
    for i, picture in enumerate(load_file(folder / "keyframes.safetensors")["keyframes"]):
        pixels = (picture * 255).round().byte().numpy()
        Image.fromarray(pixels).save(server.base / "input" / f"key_{i}.png")


def graph(name: str, **changes: Any) -> dict:
    """An API-format graph of this folder; ``node__input=value`` changes an input of the node so titled."""
    nodes = json.loads((GRAPHS / f"{name}.json").read_text())
    titles = {node["_meta"]["title"]: node for node in nodes.values()}
    for key, value in changes.items():
        title, _, entry = key.partition("__")
        titles[title]["inputs"][entry] = value
    return nodes


def expect_film(server: Server, frames: torch.Tensor, name: str) -> None:
    """Within 1/255 of the headless host's film, in 8 bits; the keyframes exact."""
    theirs = (
        load_file(server.folder / f"held_{name}.safetensors")["film"] * 255
    ).floor()  # as SaveImage does
    distance = (frames.float() - theirs).abs()
    assert frames.shape == theirs.shape, (frames.shape, theirs.shape)
    assert distance.max() <= 1 and distance.mean() <= 0.255, (distance.max(), distance.mean())
    for i in range(0, len(frames), 6):
        assert distance[i].max() == 0, i


async def adapters_in(server: Server, loader: str) -> set[str]:
    """What a loader offers now."""
    told = (await server.get(f"/object_info/{loader}"))[loader]["input"]["required"]["adapter_name"]
    return set(told[0] if isinstance(told[0], list) else told[1]["options"])


async def check_every_node_is_offered_and_explained(server: Server):
    offered = {k: v for k, v in (await server.get("/object_info")).items() if k.startswith("SVDVFI")}
    assert len(offered) == NODES, sorted(offered)
    for name, info in offered.items():
        assert info["description"] and info["category"] == "video/svd frame interpolation"
        for kind in ("required", "optional"):
            for entry, (_, options) in info["input"].get(kind, {}).items():
                assert options.get("tooltip"), (name, entry)
    adapters = await adapters_in(server, "SVDVFILoadAdapter")
    assert {"none", "fast.safetensors", "paper.safetensors"} <= adapters
    assert "no_adapter.safetensors" not in adapters


async def check_ids_and_names_are_the_frozen_ones(server: Server):
    """Graphs people saved name them: frozen.json only ever grows."""
    offered = await server.get("/object_info")
    for name, frozen in json.loads((GRAPHS.parent / "frozen.json").read_text()).items():
        info = offered[name]
        inputs = [entry for kind in ("required", "optional") for entry in info["input"].get(kind, {})]
        assert [entry for entry in inputs if entry in frozen["inputs"]] == frozen["inputs"], (name, inputs)
        outputs = list(zip(info["output"], info["output_name"], strict=True))
        assert outputs[: len(frozen["outputs"])] == [tuple(o) for o in frozen["outputs"]], (name, outputs)


async def check_all_in_one_makes_the_headless_film(server: Server):
    for name in ("fast", "none"):
        chosen = name if name == "none" else f"{name}.safetensors"
        outcome = await server.run(graph("all_in_one", load__adapter_name=chosen))
        expect_film(server, outcome.frames(), name)


async def check_an_adapter_trained_meanwhile_appears_and_runs(server: Server):
    loaders = ("SVDVFILoadAdapter", "SVDVFILoadCheckpoint")
    before = [await adapters_in(server, loader) for loader in loaders]
    shutil.copy(server.folder / "trained.safetensors", server.base / "models/svd_vfi/mine.safetensors")
    after = [await adapters_in(server, loader) for loader in loaders]  # what the editor asks for on R
    assert [new - old for new, old in zip(after, before, strict=True)] == [{"mine.safetensors"}] * 2
    outcome = await server.run(graph("all_in_one", load__adapter_name="mine.safetensors"))
    expect_film(server, outcome.frames(), "trained")


async def check_separate_nodes_make_the_headless_film(server: Server):
    outcome = await server.run(graph("separate"))
    expect_film(server, outcome.frames(), "fast")
    assert outcome.of("progress") and outcome.previews


async def check_a_second_run_comes_from_the_cache(server: Server):
    await server.run(graph("separate"))
    outcome = await server.run(graph("separate"))
    cached = {node for data in outcome.of("execution_cached") for node in data["nodes"]}
    assert len(cached) >= len(graph("separate")) - 1, cached  # all but, on some hosts, the one that saves


async def check_one_progress_bar_runs_through_all_segments(server: Server):
    outcome = await server.run(graph("all_in_one", film__seed=77))
    values = [(d["value"], d["max"]) for d in outcome.of("progress")]
    assert values and values == sorted(values) and values[-1][0] == values[-1][1], values
    assert len({most for _, most in values}) == 1, values


async def check_a_cancel_leaves_an_undisturbed_server(server: Server):
    expected = (await server.run(graph("all_in_one", film__seed=9))).frames()
    for when in (1, 2, 3, 4, 7):  # steps and decodings of the first segment, the second segment
        outcome = await server.run(
            graph("all_in_one", film__seed=100 + when),
            lambda kind, data, when=when: kind == "progress" and data["value"] >= when,
        )
        assert outcome.end == "execution_interrupted", (when, outcome.end)
        again = await server.run(graph("all_in_one", film__seed=9, save__filename_prefix=f"again_{when}"))
        assert torch.equal(again.frames(), expected), when


async def check_a_cancelled_film_goes_on_and_one_segment_is_drawn_anew(server: Server):
    def efforts(outcome: Any) -> set[int]:
        return {data["max"] for data in outcome.of("progress")}

    (two,) = efforts(await server.run(graph("all_in_one", film__seed=300)))
    outcome = await server.run(
        graph("all_in_one", film__seed=310), lambda kind, data: kind == "progress" and data["value"] > two / 2
    )
    assert outcome.end == "execution_interrupted"
    outcome = await server.run(graph("all_in_one", film__seed=310, save__filename_prefix="went_on"))
    assert efforts(outcome) == {two // 2}
    frames = outcome.frames()
    outcome = await server.run(
        graph("all_in_one", film__seed=310, film__reseed="0: 1", save__filename_prefix="anew")
    )
    assert efforts(outcome) == {two // 2}
    assert torch.equal(outcome.frames()[6:], frames[6:]) and not torch.equal(
        outcome.frames()[1:6], frames[1:6]
    )


async def check_stock_samplers_fill_the_same_latent(server: Server):
    for name in ("ksampler", "advanced", "custom"):
        frames = (await server.run(graph(name))).frames()
        assert len(frames) == 7, (name, frames.shape)


async def check_a_video_comes_out(server: Server):
    outcome = await server.run(graph("video"))
    assert outcome.end == "execution_success", outcome.error
    assert list((server.base / "output").rglob("*.mp4"))


async def check_errors_are_one_sentence(server: Server):
    lonely = graph("all_in_one", film__images=["2", 0], film__last_image=["2", 0])
    film = next(node for node in lonely.values() if node["_meta"]["title"] == "film")
    del film["inputs"]["last_image"]
    outcome = await server.run(lonely)
    assert outcome.end == "execution_error" and "at least two" in outcome.error, outcome.error
    assert len(outcome.error.strip().splitlines()) == 1
    try:
        outcome = await server.run(graph("all_in_one", load__adapter_name="nowhere"))
    except AssertionError as refusal:  # at the door
        assert "nowhere" in str(refusal)
    else:  # 0.3.64 does not look a choice up: the loader says it
        assert outcome.end == "execution_error" and "nowhere" in outcome.error, outcome.error


async def check_the_bundled_quick_start_makes_its_film(server: Server):
    frames = (await server.run(workflow("quick_start"))).frames()
    assert frames.shape == (7, 256, 256, 3), frames.shape
    for which, name in ((0, "first"), (-1, "last")):
        given = Image.open(server.base / "input" / f"svd_vfi_orbit_{name}.png").convert("RGB")
        assert torch.equal(frames[which], torch.from_numpy(numpy.array(given))), name


async def check_every_other_workflow_runs(server: Server):
    offered = await server.get("/object_info")
    lengths = {
        "custom_sampler": 7,
        "draw_one_segment_again": 7,
        "loop": 12,
        "many_keyframes": 13,
        "public_weights": 7,  # on the miniature and its adapter, too
        "scene_cuts": 19,
        "slow_motion": 19,
        "stock_ksampler": 7,
        "svd_xt_two_keyframes": 7,  # on the miniature, which stands in for Stability's weights here
        "try_a_trained_adapter": 7,
        "wide_gaps_then_frame_interpolation": 13,
        "without_an_adapter": 7,
    }
    told = {name for name in (await server.get("/api/workflow_templates"))["another-name"]}
    assert told == {"quick_start", *lengths}, told
    for name, length in lengths.items():
        nodes = workflow(name, steps=1)
        if not {node["class_type"] for node in nodes.values()} <= set(offered):
            assert name == "wide_gaps_then_frame_interpolation", name  # 0.3.64 has no FrameInterpolate
            continue
        outcome = await server.run(nodes)
        assert len(outcome.frames()) == length, name
        assert list((server.base / "output/video").glob(f"svd_vfi_{name}*.mp4")), name


def workflow(name: str, **changes: Any) -> dict:
    """A shipped workflow in API format that runs here and saves its frames; ``changes`` go to every node that
    has such an input.
    """
    nodes = json.loads((GRAPHS / f"{name}.json").read_text())
    for node in nodes.values():
        inputs = node["inputs"]
        inputs |= {entry: value for entry, value in changes.items() if entry in inputs}
        if inputs.get("ckpt_name") == "svd_xt.safetensors":
            inputs |= {"ckpt_name": TINY, "adapter_name": FAST}
        if node["class_type"] == "CreateVideo":
            film = inputs["images"]
    return nodes | {
        "frames": {"class_type": "SaveImage", "inputs": {"images": film, "filename_prefix": name}}
    }


async def check_memory_comes_back(server: Server):
    process, sizes = psutil.Process(server.process.pid), []
    for seed in range(4):
        await server.run(graph("all_in_one", film__seed=1000 + seed))
        await server.post("/free", {"unload_models": True, "free_memory": True})
        await asyncio.sleep(2)
        sizes.append(process.memory_info().rss / 2**20)
    for _ in range(30):  # it frees when it gets to it: on a busy machine later than after two seconds
        if sizes[-1] - sizes[1] < 50:
            break
        await asyncio.sleep(1)
        sizes[-1] = process.memory_info().rss / 2**20
    assert sizes[-1] - sizes[1] < 50, sizes  # MiB


async def main(comfy: Path, folder: Path) -> None:
    checks = {name: check for name, check in globals().items() if name.startswith("check_")}
    errors: dict[str, str | None] = {}
    server = Server(comfy, folder, pack=folder / "pack")
    furnish(server)
    async with server:
        for name, check in checks.items():
            try:
                await check(server)
                errors[name] = None
            except Exception:
                errors[name] = traceback.format_exc()
    (folder / "served.json").write_text(json.dumps(errors))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
