"""Methods as the command names them, and films of others that lie in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("cv2", reason="needs the extra 'eval'")
pytest.importorskip("av", reason="needs the extra 'eval'")

import numpy as np
import torch
from PIL import Image

from vfi_core.cli_methods import check_names, default_methods, make_methods
from vfi_core.evaluation.clips import ClipSet
from vfi_core.evaluation.methods import Method, between, inside, published, somebodys


def toys(name: str = "toys", **films) -> ClipSet:
    def truth(clip: str) -> np.ndarray:
        return np.full((5, 32, 32, 3), 50 if clip == "a" else 100, np.uint8)

    return ClipSet(name, "toys", ("a", "b"), truth, films, size=(16, 16))


def write(folder: Path, frames: int, value: int = 50, side: int = 32) -> None:
    folder.mkdir(parents=True)
    for i in range(frames):
        Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(folder / f"{i}.png")


def test_a_method_s_slug_is_good_for_a_file():
    slugs = [
        Method(name, "", lambda *_: None).slug for name in ("base:fused", "RIFE (published)", "My/../x", "·")
    ]
    assert slugs == ["base-fused", "rife-published", "my-..-x", "method"]


def test_an_interpolator_sees_the_ends_and_a_restorer_the_whole_clip():
    clips, seen = toys(), []

    def interpolate(first: torch.Tensor, last: torch.Tensor, n: int) -> torch.Tensor:
        seen.append((first.shape, last.shape, n))
        return first.expand(n, *first.shape)

    assert between("x", "x", interpolate).draw(clips, clips[0]).shape == (3, 16, 16, 3)
    assert seen == [((16, 16, 3), (16, 16, 3), 3)]
    assert torch.equal(inside("y", "y", lambda film: film).draw(clips, clips[0]), clips[0].frames)


def test_published_films_are_brought_to_the_size_of_the_truth_and_belong_to_their_set():
    sets = [toys(), toys("others", **{"RIFE (published)": lambda name: np.zeros((3, 32, 32, 3), np.uint8)})]
    (method,) = published(sets)
    assert method.label == "RIFE (published)"
    assert method.draw(sets[0], sets[0][0]) is None
    assert method.draw(sets[1], sets[1][0]).shape == (3, 16, 16, 3)


def test_somebody_s_films_are_found_by_set_and_clip_and_what_is_missing_is_told(tmp_path: Path):
    write(tmp_path / "toys" / "a", 5)
    write(tmp_path / "b", 3, 100)
    sets = [toys(), toys("more")]
    method, told = somebodys("Mine", tmp_path, sets)
    assert method.draw(sets[0], sets[0][0]).shape == (5, 16, 16, 3)
    assert method.draw(sets[0], sets[0][1]) is None
    assert method.draw(sets[1], sets[1][1]).shape == (3, 16, 16, 3)
    assert told == [
        "Mine has no film of 1 of the 2 clips of toys (b first); its means are over the others.",
        "Mine has no film of 1 of the 2 clips of more (a first); its means are over the others.",
    ]


def test_a_folder_with_nothing_to_show_is_refused(tmp_path: Path):
    write(tmp_path / "c", 3)
    with pytest.raises(ValueError, match="no film named like a clip \\(a\\)"):
        somebodys("Mine", tmp_path, [toys()])
    with pytest.raises(ValueError, match="is no folder"):
        somebodys("Mine", tmp_path / "gone", [toys()])


def test_the_default_fits_the_model():
    none, tiny, own = (default_methods(model)[0] for model in ("none", "tiny", "some.safetensors"))
    assert none == ["nearest", "linear", "dis", "minterpolate"]
    assert set(tiny) - set(own) == {"fast", "paper"}
    assert {"linear-vae", "base", "base:fused", "vae"} <= set(own)


@pytest.mark.parametrize(
    ("names", "model", "sentence"),
    [
        (["base"], "none", "--method base needs a model"),
        (["fats"], "tiny", "no method 'fats'"),
        (["base:fsed"], "tiny", "no method 'base:fsed'"),
    ],
)
def test_names_that_cannot_be_are_refused_before_anything_is_loaded(
    names: list[str], model: str, sentence: str
):
    with pytest.raises(ValueError, match=sentence):
        check_names(names, model)


def test_two_methods_of_one_name_are_refused(tmp_path: Path):
    write(tmp_path / "a", 5)
    for names in (["linear", f"Linear={tmp_path}"], [f"truth={tmp_path}"], ["linear", "linear"]):
        with pytest.raises(ValueError, match="two methods would be called"):
            make_methods(names, [toys()], None, None)
