"""Wrong input to the command line: exit code 2, one sentence, no traceback, nothing left behind."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

pytest.importorskip("diffusers")
pytest.importorskip("av")

import vfi_core.svd.interpolate as host  # noqa: E402
from tests.svd.toys import toy_svd, tuned_unet  # noqa: E402
from vfi_core import cli, media  # noqa: E402
from vfi_core.adapter import PRESETS, Adapter, expected_shapes, save_adapter  # noqa: E402
from vfi_core.svd.adapted import shapes_of  # noqa: E402
from vfi_core.svd.load import CONFIG_KEY, save_single_file  # noqa: E402


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good and bad input of every kind, written once."""
    root = tmp_path_factory.mktemp("shelf")
    _pictures(root)
    good = root / "toy.safetensors"
    save_single_file(toy_svd(), good)
    _models(root, good)
    _adapters(root, good)
    (root / "unknown_key.toml").write_text('kind = "vae"\nno_such_setting = 1\n')
    (root / "broken.toml").write_text("steps = = 3\n")
    return root


def _pictures(root: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in ("a.png", "b.png", "cut.png"):
        Image.fromarray(noise).save(root / name)
    Image.fromarray(noise[:32]).save(root / "flat.png")
    Image.fromarray(noise[:4, :1]).resize((2, 64)).save(root / "narrow.png")
    (root / "cut.png").write_bytes((root / "cut.png").read_bytes()[:5000])
    (root / "text.png").write_text("not a picture")
    (root / "text.mp4").write_text("not a video")
    (root / "empty").mkdir()
    media.write_film(torch.zeros(4, 64, 64, 3, dtype=torch.uint8), root / "film.mp4", 8)
    (root / "cut.mp4").write_bytes((root / "film.mp4").read_bytes()[:500])


def _models(root: Path, good: Path) -> None:
    tensors = load_file(good)
    metadata = {CONFIG_KEY: json.dumps(toy_svd().config)}
    conv = "model.diffusion_model.input_blocks.0.0.weight"
    wrong = {
        "renamed_key": {k.replace("input_blocks.0.0", "entry"): t for k, t in tensors.items()},
        "wrong_shape": tensors | {conv: torch.zeros(32, 9, 3, 3)},
        "nan": tensors | {conv: torch.full_like(tensors[conv], float("nan"))},
        "no_vae": {k: t for k, t in tensors.items() if not k.startswith("first_stage_model.")},
    }
    for name, changed in wrong.items():
        save_file(changed, root / f"{name}.safetensors", metadata=metadata)
    save_file(tensors, root / "no_metadata.safetensors")
    save_file(tensors, root / "bad_metadata.safetensors", metadata={CONFIG_KEY: "{"})
    unet, clip = (
        "model.diffusion_model.input_blocks.0.0.weight",
        "cond_stage_model.transformer.text_model.final.weight",
    )
    save_file({unet: torch.zeros(320, 4, 3, 3), clip: torch.zeros(768)}, root / "sd15.safetensors")
    (root / "cut.safetensors").write_bytes(good.read_bytes()[:3_000_000])
    (root / "cut_header.safetensors").write_bytes(good.read_bytes()[:1000])
    (root / "text.safetensors").write_text("these are no weights, but a text of some length")
    (root / "pointer.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    )
    (root / "pickle.safetensors").write_bytes(pickle.dumps({"weight": [1.0] * 99}))
    torch.save({"weight": torch.zeros(9)}, root / "zip.safetensors")


def _adapters(root: Path, good: Path) -> None:
    options = PRESETS["paper"]

    def adapter(base: dict[str, Any]) -> Adapter:
        return Adapter(options, {k: torch.zeros(s) for k, s in expected_shapes(options, base).items()}, 32)

    base = shapes_of(toy_svd().unet)
    save_adapter(adapter(base), root / "adapter.safetensors")
    save_adapter(adapter(shapes_of(toy_svd(layers=2).unet)), root / "other_base.safetensors")
    whole = adapter(base)
    tensors = dict(whole.tensors)
    tensors.popitem()
    save_adapter(Adapter(options, tensors, 32), root / "lacking.safetensors")
    name = next(iter(whole.tensors))
    broken = {**whole.tensors, name: torch.full_like(whole.tensors[name], float("nan"))}
    with safe_open(root / "adapter.safetensors", "pt") as file:
        metadata = file.metadata()
    save_file(broken, root / "adapter_nan.safetensors", metadata=metadata)  # save_adapter would refuse
    controlnet = {"conv_in.weight": torch.zeros(4, 9), "controlnet_down_blocks.0.bias": torch.zeros(4)}
    save_file(controlnet, root / "framer_controlnet.safetensors")
    save_file({"lora_unet_mid.lora_up.weight": torch.zeros(4, 4)}, root / "lora.safetensors")
    (root / "tuned" / "unet").mkdir(parents=True)
    save_file(tuned_unet(toy_svd()), root / "tuned" / "unet" / "diffusion_pytorch_model.safetensors")
    (root / "adapter_cut.safetensors").write_bytes((root / "adapter.safetensors").read_bytes()[:50_000])


def command(shelf: Path, out: Path, line: str) -> list[str]:
    """The words of ``line``: @x lies on the shelf, ^x in the output folder, = is all that is needed."""
    places = {"@": shelf, "^": out}
    line = line.replace("= ", "@a.png @b.png -o ^f.gif --device cpu ")
    return [str(places[word[0]] / word[1:]) if word[0] in places else word for word in line.split()]


@pytest.fixture(autouse=True)
def bundle(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Toys in the place of the bundled weights."""
    monkeypatch.setattr("vfi_core.tiny.TINY", shelf / "toy.safetensors")
    monkeypatch.setattr("vfi_core.tiny.ADAPTERS", {"fast": shelf / "adapter.safetensors"})


def refused(shelf: Path, out: Path, line: str, capsys: Any) -> str:
    """The one sentence of a refused command, after everything that holds of all of them."""
    before = sorted(out.rglob("*"))
    code = cli.main(command(shelf, out, line))
    said = capsys.readouterr()
    assert code == 2, said.err
    assert said.out == ""
    assert said.err.startswith("svd-vfi: ") and said.err.count("\n") == 1, said.err
    assert "Traceback" not in said.err
    assert sorted(out.rglob("*")) == before
    return said.err


CASES = {
    # keyframes
    "no keyframes": ("-o ^f.gif", "no keyframes given"),
    "one frame": ("@a.png -o ^f.gif", "1 keyframe given by .*a.png; in-betweens need at least two"),
    "a missing frame": ("@a.png @gone.png -o ^f.gif", "gone.png does not exist"),
    "an empty folder": ("@empty -o ^f.gif", "empty holds no pictures"),
    "a folder among pictures": ("@a.png @empty -o ^f.gif", "empty is a folder"),
    "a text file called png": ("@a.png @text.png -o ^f.gif", "text.png is not a picture"),
    "a picture cut short": ("@a.png @cut.png -o ^f.gif", "cut.png is damaged"),
    "frames of two sizes": ("@a.png @flat.png -o ^f.gif", "flat.png is 64x32 but .*a.png is 64x64"),
    "frames too narrow": ("@narrow.png @narrow.png -o ^f.gif", "2x64 are too narrow"),
    "a text file called mp4": ("@text.mp4 -o ^f.gif", "text.mp4 cannot be read as a video"),
    "a video cut short": ("@cut.mp4 -o ^f.gif", "cut.mp4 cannot be read as a video"),
    "a video among pictures": ("@a.png @film.mp4 -o ^f.gif", "film.mp4 is a video; give it alone"),
    "an unknown sample": ("--sample nosuch -o ^f.gif", "unknown sample 'nosuch' .bundled: "),
    "a sample and frames": ("@a.png --sample nosuch -o ^f.gif", "both --sample"),
    # outputs
    "no output": ("@a.png @b.png", "required: -o"),
    "an unknown suffix": ("@a.png @b.png -o ^f.avi", "unknown suffix '.avi' .use .mp4, .gif, .webp"),
    "a missing parent folder": ("@a.png @b.png -o ^gone/f.gif", "gone does not exist"),
    "a folder with other files": ("@a.png @b.png -o ^full", "full already holds files"),
    "a folder called gif": ("@a.png @b.png -o ^folder.gif", "folder.gif is a folder"),
    "a file where the folder should be": ("@a.png @b.png -o ^plain", "plain is a file"),
    "a file as the parent folder": (
        "@a.png @b.png -o ^plain/f.gif",
        "plain does not exist|plain is no folder",
    ),
    "the output is a keyframe": ("^mine.gif @b.png -o ^mine.gif", "mine.gif is one of the keyframes"),
    "a sheet that is no png": ("= --sheet ^s.jpg", "s.jpg is no .png name"),
    "a sheet in a missing folder": ("= --sheet ^gone/s.png", "gone does not exist"),
    # numbers
    "zero in-betweens": ("= --frames 0", "--frames: 0 is not possible .use 1 or more"),
    "in-betweens that are no number": ("= --frames many", "many is not possible"),
    "negative steps": ("= --steps -3", "-3 is not possible .use 1 to 1000"),
    "a negative seed": ("= --seed -1", "-1 is not possible"),
    "a seed too large": (
        "= --seed 18446744073709551616",
        "is not possible .use 0 to 1844",
    ),
    "a seed with no next": (
        "@a.png @b.png @a.png -o ^f.gif --seed 18446744073709551615",
        "leaves no seeds for 2",
    ),
    "guidance in words": ("= --guidance high", "'high' is no guidance"),
    "guidance of three": ("= --guidance 1:2:3", "'1:2:3' is no guidance"),
    "guidance without end": ("= --guidance nan", "'nan' is no guidance"),
    "a size off the grid": ("= --size 100x64", "'100x64' is no size .*multiples of 64"),
    "a size without a height": ("= --size 64", "'64' is no size"),
    "no frames a second": ("= --fps 0", "0 frames per second cannot be written"),
    "positions that are no numbers": ("= --positions 0,x", "'0,x' are no frame numbers"),
    "positions for others": ("= --positions 0,4,9", "3 positions were given for 2 keyframes"),
    "positions out of order": ("= --positions 4,2", "the first keyframe is at frame 4"),
    "a source rate of nothing": ("= --source-fps 0", "--source-fps is 0; use more than 0"),
    "positions and frames": ("= --positions 0,4 --frames 3", "both say how far apart"),
    "a gap to skip that is not there": ("= --skip 1", "there is no gap behind frame 1 of 2; use 0 to 0"),
    "gaps in words": ("= --skip first", "'first' are no frame numbers"),
    "a seed for no gap": ("= --reseed 3:7", "gap 3 was given a seed of its own"),
    "a seed without a gap": ("= --reseed 7", "'7' gives no gap another seed"),
    "clips of two frames": ("= --clip-frames 2", "2 is not possible .use 3 or more"),
    "a rate below the video's": ("@film.mp4 -o ^f.gif --fps 4", "4 fps is less than the keyframes' 8"),
    "a gif too fast": ("= --fps 60", "a gif cannot play 60"),
    # the machine
    "an unknown device": ("= --device gpu", "unknown device 'gpu' .use auto, cpu"),
    "a device that is not there": ("= --device cuda:99", "cuda:99 is not there"),
    "an unknown dtype": ("= --dtype int8", "invalid choice: 'int8'"),
    # checkpoints
    "a missing model": (
        "= --model @gone.safetensors",
        "gone.safetensors does not exist",
    ),
    "a model cut short": (
        "= --model @cut.safetensors",
        "cut.safetensors is damaged or cut",
    ),
    "a model cut in its header": (
        "= --model @cut_header.safetensors",
        "damaged or cut short",
    ),
    "a text as a model": ("= --model @text.safetensors", "text.safetensors is damaged"),
    "a git lfs pointer": ("= --model @pointer.safetensors", "is a Git LFS pointer"),
    "a pickle renamed": ("= --model @pickle.safetensors", "is a pickle"),
    "a torch file renamed": ("= --model @zip.safetensors", "is a pickle"),
    "a key renamed": ("= --model @renamed_key.safetensors", "lacks .*input_blocks.0.0"),
    "a wrong shape": ("= --model @wrong_shape.safetensors", "is .32, 9, 3, 3. where"),
    "weights that are no numbers": ("= --model @nan.safetensors", "holds NaN"),
    "a model without its vae": ("= --model @no_vae.safetensors", "checkpoint without its VAE; give"),
    "a model without dimensions": (
        "= --model @no_metadata.safetensors",
        "it is another model",
    ),
    "a model with broken metadata": (
        "= --model @bad_metadata.safetensors",
        "no JSON object",
    ),
    "stable diffusion 1.5": (
        "= --model @sd15.safetensors",
        "is a Stable Diffusion 1.x or 2.x checkpoint; give",
    ),
    "an adapter as the model": (
        "= --model @adapter.safetensors",
        "is an adapter for in-betweening .*; give",
    ),
    "a folder that is no model": ("= --model @empty", "empty is no diffusers folder"),
    # adapters
    "an unknown adapter": ("= --adapter slow", "no adapter 'slow' .give .* or fast"),
    "an adapter of another base": (
        "= --adapter @other_base.safetensors",
        "another base model",
    ),
    "an adapter with a tensor missing": ("= --adapter @lacking.safetensors", "lacks "),
    "an adapter cut short": (
        "= --adapter @adapter_cut.safetensors",
        "not a whole safetensors",
    ),
    "an adapter of no numbers": ("= --adapter @adapter_nan.safetensors", "not finite"),
    "weights of reversed motion with another method": (
        "= --adapter @tuned --method fused",
        "tuned is for the method 'reversed' alone, not for 'fused'",
    ),
    "the method of other weights": (
        "= --method reversed",
        "'reversed' needs the weights of Generative Inbetweening",
    ),
    "a lora as the adapter": (
        "= --adapter @lora.safetensors",
        "is a LoRA, not an adapter",
    ),
    "framer's controlnet as the adapter": (
        "= --adapter @framer_controlnet.safetensors",
        "is a ControlNet, not an adapter; give .* Framer's U-Net",
    ),
    "a folder without weights as the adapter": ("= --adapter @empty", "empty holds no .safetensors file"),
    "a model as the adapter": (
        "= --adapter @toy.safetensors",
        "is a Stable Video Diffusion checkpoint .*, not an adapter",
    ),
}


@pytest.mark.parametrize(("line", "message"), CASES.values(), ids=CASES)
def test_interpolate_refuses(shelf: Path, tmp_path: Path, capsys: Any, line: str, message: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "folder.gif").mkdir()
    (tmp_path / "plain").write_text("mine")
    (tmp_path / "mine.gif").write_bytes((shelf / "a.png").read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host, "sample_segment", lambda *_, **__: pytest.fail("the model ran on wrong input"))
        said = refused(shelf, tmp_path, f"interpolate {line}", capsys)
    assert re.search(message, said), said
    assert (tmp_path / "mine.gif").read_bytes() == (shelf / "a.png").read_bytes()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "required: COMMAND"),
        ("paint", "invalid choice: 'paint'"),
        ("interpolate --colour red -o ^f.gif", "unrecognized arguments: --colour"),
        ("inspect @gone.safetensors", "gone.safetensors does not exist"),
        ("inspect @empty", "empty is a folder"),
        ("inspect @cut.safetensors", "cut.safetensors is cut short: 3,000,000 of"),
        ("inspect @cut_header.safetensors", "is no safetensors file"),
        ("inspect @text.safetensors", "is no safetensors file"),
        ("inspect @a.png", "is no safetensors file"),
        ("inspect @pickle.safetensors", "is a pickle"),
        ("inspect @zip.safetensors", "is a pickle"),
        ("inspect @pointer.safetensors", "is a Git LFS pointer"),
        ("train @gone.toml -o ^run --device cpu", "gone.toml"),
        ("train @broken.toml -o ^run --device cpu", "broken.toml is not a readable TOML file"),
        ("train @unknown_key.toml -o ^run --device cpu", "no_such_setting"),
        ("evaluate --data @empty -o ^table", "empty"),
    ],
)
def test_other_commands_refuse(shelf: Path, tmp_path: Path, capsys: Any, line: str, message: str) -> None:
    assert message in refused(shelf, tmp_path, line, capsys)


@pytest.fixture
def crossfade(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that answers at once, so that what is tried is the writing."""

    def draw(frames, first, last, seed, step):
        return torch.lerp(first, last, torch.linspace(0, 1, frames).view(-1, 1, 1, 1))

    monkeypatch.setattr(host, "segment_drawing", lambda *_: draw)


@pytest.mark.parametrize("name", ["f.mp4", "f.gif", "f.webp", "f"])
def test_a_full_disk_leaves_nothing(
    shelf: Path, tmp_path: Path, capsys: Any, crossfade: None, name: str
) -> None:
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, limits[1]))
    try:
        said = refused(shelf, tmp_path, f"interpolate @a.png @b.png -o ^{name} --device cpu", capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert re.search("[0-9a-f]{16} cannot be written", said)  # already the segment does not fit


def test_a_disk_that_fills_at_the_last_moment_keeps_the_old_film_and_what_was_drawn(
    shelf: Path, tmp_path: Path, capsys: Any, crossfade: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(a: Path, b: Path) -> None:
        if b.suffix == ".gif":
            raise OSError(errno.ENOSPC, "No space left on device")
        a.rename(b)

    monkeypatch.setattr(os, "replace", full)
    (tmp_path / "f.gif").write_text("old")
    words = command(shelf, tmp_path, "interpolate = ")
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert "f.gif cannot be written (No space left on device)" in said and said.count("\n") == 1
    assert "the same command goes on" in said
    assert (tmp_path / "f.gif").read_text() == "old"
    monkeypatch.undo()
    monkeypatch.setattr("vfi_core.tiny.TINY", shelf / "toy.safetensors")
    monkeypatch.setattr("vfi_core.tiny.ADAPTERS", {"fast": shelf / "adapter.safetensors"})
    monkeypatch.setattr(host, "segment_drawing", lambda *_: lambda *_: pytest.fail("it was drawn twice"))
    assert cli.main(words) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["f.gif"]


def test_a_model_that_overflows_writes_no_black_film(
    shelf: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        host, "decode", lambda _, latents: torch.full((len(latents), 3, 64, 64), float("nan"))
    )
    line = "interpolate = --frames 1"
    assert "the model overflowed" in refused(shelf, tmp_path, line, capsys)


def test_too_little_memory_is_told_with_its_remedies(
    shelf: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def large(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB\nmore")

    monkeypatch.setattr(host, "segment_drawing", lambda *_: large)
    said = refused(shelf, tmp_path, "interpolate = ", capsys)
    assert "out of memory; use a smaller --size" in said


@pytest.mark.parametrize(("package", "name"), [("av", "f.mp4"), ("tqdm", "f.gif")])
def test_a_missing_package_is_named_before_the_work(
    shelf: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, package: str, name: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(host, "sample_segment", lambda *_: pytest.fail("the model ran"))
    said = refused(shelf, tmp_path, f"interpolate @a.png @b.png -o ^{name}", capsys)
    assert f"'{package}' is missing; run: pip install 'svd-vfi[headless]'" in said
