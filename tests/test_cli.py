"""The command line: what a person types, and what lies on the disk and stands on the screen afterwards."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

pytest.importorskip("diffusers")
pytest.importorskip("av")

import vfi_core.svd.interpolate as host  # noqa: E402
from tests.svd.toys import toy_framer, toy_svd, tuned_unet  # noqa: E402
from vfi_core import cli, cli_interpolate, media  # noqa: E402
from vfi_core.svd.load import save_single_file  # noqa: E402


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "toy.safetensors"
    save_single_file(toy_svd(), path, torch.float32)
    return path


@pytest.fixture(autouse=True)
def bundle(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Toys in the place of the bundled weights."""
    adapters = {name: checkpoint.with_name(f"{name}.safetensors") for name in ("fast", "paper")}
    adapters["fast"].touch()
    monkeypatch.setattr("vfi_core.tiny.TINY", checkpoint)
    monkeypatch.setattr("vfi_core.tiny.ADAPTERS", adapters)


@pytest.fixture
def keyframes(tmp_path: Path) -> list[Path]:
    """Three pictures of 70 x 50."""
    folder = tmp_path / "keyframes"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return sorted(folder.iterdir())


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the host was asked for; it loads the toy and answers at once with a cross-fade."""
    seen: list[dict[str, Any]] = []

    def crossfade(svd, adapter, settings, height, width):
        seen.append(asdict(settings) | {"adapter": adapter, "svd": svd, "drawn": (drawn := [])})

        def draw(frames, first, last, seed, step):
            drawn.append((frames, seed))
            for _ in range(settings.steps + 1):
                step()
            return torch.lerp(first, last, torch.linspace(0, 1, frames).view(-1, 1, 1, 1))

        return draw

    monkeypatch.setattr(host, "segment_drawing", crossfade)
    monkeypatch.setattr(
        "vfi_core.svd.load.load_svd", lambda path, *_: replace(toy_svd(), name=Path(path).name)
    )
    return seen


def interpolate(checkpoint: Path, *words: object) -> int:
    fixed = ["interpolate", "--model", checkpoint, "--adapter", "none", "--device", "cpu", "--steps", 1]
    return cli.main([str(word) for word in (*fixed, *words)])


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from vfi_core import cli\ntry: cli.main(['interpolate', '--help'])\n"
        "except SystemExit: print([m for m in ('torch', 'numpy', 'PIL', 'av', 'tqdm') if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.endswith("[]\n")


def test_the_real_host_gives_the_keyframes_back_bit_for_bit_in_their_own_size(
    checkpoint: Path, keyframes: list[Path], tmp_path: Path
) -> None:
    assert interpolate(checkpoint, *keyframes[:2], "--frames", 1, "-o", tmp_path / "out") == 0
    film = torch.stack(media.read_keyframes([tmp_path / "out"]))
    assert film.shape == (3, 50, 70, 3)
    assert torch.equal(film[0], media.read_picture(keyframes[0]))
    assert torch.equal(film[2], media.read_picture(keyframes[1]))


def test_one_seed_gives_one_film_and_another_seed_another(
    checkpoint: Path, keyframes: list[Path], tmp_path: Path
) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        words = *keyframes[:2], "--frames", 1, "--seed", seed, "-o", tmp_path / name
        assert interpolate(checkpoint, *words) == 0
    a, b, c = ((tmp_path / name / "00001.png").read_bytes() for name in "abc")
    assert a == b != c


@pytest.mark.parametrize("name", ["film.mp4", "film.gif", "film.webp", "film"])
def test_the_film_is_where_it_says(
    settings: list, checkpoint: Path, keyframes: list[Path], tmp_path: Path, name: str, capsys: Any
) -> None:
    assert interpolate(checkpoint, *keyframes, "--frames", 2, "-o", tmp_path / name) == 0
    said = capsys.readouterr()
    assert said.out == f"{tmp_path / name}: 7 frames of 70x50, 7 a second, seed 0\n"
    assert said.err == ""
    film = media.read_keyframes([tmp_path / name])
    assert len(film) == 7 and film[0].shape == (50, 70, 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, "keyframes"])


def test_every_keyframe_of_a_folder_keeps_its_bytes(
    settings: list, checkpoint: Path, keyframes: list[Path], tmp_path: Path
) -> None:
    assert interpolate(checkpoint, keyframes[0].parent, "--frames", 3, "-o", tmp_path / "out") == 0
    film = media.read_keyframes([tmp_path / "out"])
    assert len(film) == 9
    for i, path in enumerate(keyframes):
        assert torch.equal(film[4 * i], media.read_picture(path))


def test_a_video_gains_frames_and_keeps_its_duration(
    settings: list, checkpoint: Path, tmp_path: Path
) -> None:
    media.write_film(torch.zeros(3, 16, 16, 3, dtype=torch.uint8), tmp_path / "in.mp4", 5)
    assert interpolate(checkpoint, tmp_path / "in.mp4", "--frames", 1, "-o", tmp_path / "out.mp4") == 0
    assert media.read_fps(tmp_path / "out.mp4") == 10
    assert (
        interpolate(checkpoint, tmp_path / "in.mp4", "--frames", 1, "--fps", 5, "-o", tmp_path / "s.mp4") == 0
    )
    assert media.read_fps(tmp_path / "s.mp4") == 5


def test_options_reach_the_host(
    settings: list, checkpoint: Path, keyframes: list[Path], tmp_path: Path
) -> None:
    words = "--guidance", "1.5:3", "--size", "128x64", "--seed", 2**64 - 2, "--steps", 9, "--colour-lock"
    assert interpolate(checkpoint, *keyframes, *words, "-o", tmp_path / "out") == 0
    assert interpolate(checkpoint, *keyframes, "--guidance", 2, "-o", tmp_path / "b") == 0
    first, second = settings
    assert first["guidance"] == (1.5, 3.0) and second["guidance"] == (2.0, 2.0)
    assert first["size"] == (64, 128) and second["size"] is None
    assert (first["seed"], first["steps"]) == (2**64 - 2, 9)
    assert [frames for frames, _ in first["drawn"]] == [7, 7]  # as the toy was made for
    assert first["adapter"] is None
    assert first["colour_lock"] and not second["colour_lock"]


def test_a_bundled_sample_and_the_bundled_model_need_nothing_of_ones_own(
    settings: list, keyframes: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for path, end in zip(keyframes, ("first", "last"), strict=False):
        (tmp_path / f"ball_{end}.png").write_bytes(path.read_bytes())
    monkeypatch.setattr(cli_interpolate, "SAMPLES", tmp_path)
    fast = SimpleNamespace(training={"frames": 5, "fps": 12}, notice="")
    monkeypatch.setattr("vfi_core.weights.load_weights", lambda path: fast if path.stem == "fast" else None)
    assert cli.main(["interpolate", "--sample", "ball", "-o", str(tmp_path / "out.gif")]) == 0
    assert settings[0]["adapter"] is fast
    assert settings[0]["svd"].name == "toy.safetensors"
    assert "5 frames of 70x50, 12 a second" in capsys.readouterr().out  # as the adapter was trained


def test_published_weights_choose_their_method_and_say_whose_they_are(
    settings: list, checkpoint: Path, keyframes: list[Path], tmp_path: Path, capsys: Any
) -> None:
    tuned = tmp_path / "inbetweening" / "unet"
    tuned.mkdir(parents=True)
    save_file(tuned_unet(toy_svd()), tuned / "diffusion_pytorch_model.safetensors")
    words = *keyframes, "--adapter", tuned.parent, "-o", tmp_path / "out.gif"
    assert interpolate(checkpoint, *words) == 0
    assert settings[0]["method"] == "reversed" and settings[0]["adapter"].name == "inbetweening"
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "Generative Inbetweening" in said and "community licence" in said


def test_a_model_of_ones_own_without_an_adapter_is_warned_about(
    settings: list, checkpoint: Path, keyframes: list[Path], tmp_path: Path, capsys: Any
) -> None:
    words = [
        "interpolate",
        *map(str, keyframes),
        "--model",
        "svd_xt.safetensors",
        "-o",
        str(tmp_path / "out.gif"),
    ]
    assert cli.main(words) == 0
    assert settings[0]["adapter"] is None
    assert capsys.readouterr().err.startswith("svd-vfi: warning: no adapter")


def test_a_contact_sheet_lies_beside_the_film(
    settings: list, checkpoint: Path, keyframes: list[Path], tmp_path: Path, capsys: Any
) -> None:
    words = "-o", tmp_path / "out.gif", "--sheet", tmp_path / "sheet.png"
    assert interpolate(checkpoint, *keyframes, *words) == 0
    assert media.read_picture(tmp_path / "sheet.png").shape[0] == 2 * 54 + 4
    assert str(tmp_path / "sheet.png") in capsys.readouterr().out


def test_a_terminal_sees_a_bar_with_the_time_left(
    settings: list, checkpoint: Path, keyframes: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    assert interpolate(checkpoint, *keyframes, "-o", tmp_path / "out.gif") == 0
    assert "interpolating" in screen.getvalue() and "/4 [" in screen.getvalue()


def test_ctrl_c_leaves_the_old_film_and_nothing_else(
    settings: list,
    checkpoint: Path,
    keyframes: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(host, "segment_drawing", lambda *_: interrupted)
    (tmp_path / "old.gif").write_text("old")
    for name in ("old.gif", "new.gif", "folder"):
        assert interpolate(checkpoint, *keyframes, "-o", tmp_path / name) == 130
    assert "Traceback" not in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["keyframes", "old.gif"]
    assert (tmp_path / "old.gif").read_text() == "old"


def test_a_bug_of_ours_shows_its_traceback(
    settings: list, checkpoint: Path, keyframes: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(host, "segment_drawing", lambda *_: broken)
    with pytest.raises(RuntimeError, match="mat1"):
        interpolate(checkpoint, *keyframes, "-o", tmp_path / "out.gif")
    assert [p.name for p in tmp_path.iterdir()] == ["keyframes"]


def test_training_is_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    calls: list[Any] = []
    monkeypatch.setattr("vfi_core.training.run", lambda *args: calls.append(args) or tmp_path / "a")
    assert cli.main(["train", "a.toml", "-o", str(tmp_path), "--device", "cpu"]) == 0
    assert calls == [(Path("a.toml"), tmp_path, "cpu", None)]
    assert capsys.readouterr().out == f"{tmp_path / 'a'}: trained\n"


def inspect(path: Path, capsys: Any) -> str:
    assert cli.main(["inspect", str(path)]) == 0
    return capsys.readouterr().out


def test_inspect_knows_a_single_file_checkpoint_and_its_dimensions(checkpoint: Path, capsys: Any) -> None:
    said = inspect(checkpoint, capsys)
    assert said.startswith("toy.safetensors is a Stable Video Diffusion checkpoint in one file")
    assert "32, 64" in said and "F32" in said and "sigma_max" in said
    total = sum(tensor.numel() for tensor in load_file(checkpoint).values())
    assert f"{total / 1e6:,.2f} M" in said


def test_inspect_says_that_a_file_without_our_metadata_may_have_14_or_25_frames(
    tmp_path: Path, capsys: Any
) -> None:
    name = "model.diffusion_model.input_blocks.1.0.time_stack.in_layers.0.weight"
    conv = "model.diffusion_model.input_blocks.1.0.out_layers.3.weight"
    save_file({name: torch.zeros(320), conv: torch.zeros(320, 1, 3, 3)}, tmp_path / "svd.safetensors")
    said = inspect(tmp_path / "svd.safetensors", capsys)
    assert "without its VAE and image encoder" in said and "14 (svd) or 25 (svd_xt)" in said
    assert "widths         320\n" in said


def test_inspect_shows_an_adapters_options(tmp_path: Path, capsys: Any) -> None:
    options = {"kf_join": "token", "frames": 7, "base": {"widths": [32, 64]}}
    metadata = {"format": "svd-vfi-adapter/1", "svd_vfi_adapter": json.dumps(options)}
    save_file(
        {"encoder.stem.weight": torch.zeros(32, 5, 3, 3)}, tmp_path / "a.safetensors", metadata=metadata
    )
    said = inspect(tmp_path / "a.safetensors", capsys)
    assert said.startswith("a.safetensors is an adapter for in-betweening (svd-vfi-adapter/1)\n")
    assert "kf_join" in said and "token" in said and "widths [32, 64]" in said and "1,440" in said


def test_framer_s_u_net_is_known_and_its_licence_told(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "framer.safetensors"
    save_file(toy_framer(), path)
    said = inspect(path, capsys)
    assert said.startswith("framer.safetensors is Framer's U-Net, weights for in-betweening")
    assert "[320, 512]" in said and "academic use" in said
    found = cli_interpolate.find_adapter(str(path), True)
    cli_interpolate.tell_origin(found)
    out, err = capsys.readouterr()
    assert found and found.training["frames"] == 14
    assert not out and err.count("\n") == 1 and "academic use" in err


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("cond_stage_model.transformer.text_model.embeddings.position_ids", "Stable Diffusion 1.x or 2.x"),
        ("conditioner.embedders.1.model.ln_final.weight", "SDXL"),
        ("lora_unet_down_blocks_0.lora_up.weight", "a LoRA"),
        ("down_blocks.0.attentions.0.temporal_transformer_blocks.0.ff.net.2.weight", "U-Net alone"),
        ("something.else", "unknown kind, with tensors such as something.else"),
    ],
)
def test_inspect_names_other_models(tmp_path: Path, capsys: Any, key: str, what: str) -> None:
    save_file({key: torch.zeros(2, 2, dtype=torch.float16)}, tmp_path / "m.safetensors")
    said = inspect(tmp_path / "m.safetensors", capsys)
    assert what in said and "F16 (1 tensors)" in said
