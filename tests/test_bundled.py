"""The bundled miniature is whole: its parts fit each other, and what it makes is a film."""

from __future__ import annotations

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("peft")
pytest.importorskip("cv2")

from vfi_core.adapter import load_adapter
from vfi_core.evaluation.metrics import psnr
from vfi_core.samples.draw import SCENES, truth
from vfi_core.svd.adapted import load_modules
from vfi_core.svd.interpolate import interpolate
from vfi_core.svd.load import SVD, load_svd
from vfi_core.svd.settings import Settings
from vfi_core.tiny import ADAPTERS, ROOM, TINY
from vfi_core.training.config import read_toml
from vfi_core.training.trainable import preset


@pytest.fixture(scope="module")
def svd() -> SVD:
    return load_svd(TINY)


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_bundled_adapter_fits_the_bundled_base_and_is_what_its_configuration_says(name: str, svd: SVD):
    adapter, recipe = load_adapter(ADAPTERS[name]), read_toml(ROOM / f"{name}.toml")
    load_modules(svd.unet, adapter)
    assert adapter.options == preset(recipe["preset"], recipe.get("options", {}))
    assert adapter.training["steps"] == recipe["train"]["steps"]
    assert adapter.training["frames"] == svd.config["frames"]


def test_the_bundled_weights_are_small_and_all_named():
    assert {path.name for path in ROOM.glob("*.safetensors")} == {p.name for p in (TINY, *ADAPTERS.values())}
    assert sum(path.stat().st_size for path in ROOM.glob("*.safetensors")) <= 30e6


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("scene", SCENES)
def test_a_bundled_scene_s_film_leaves_the_first_picture_and_arrives_at_the_last(
    scene: str, name: str, svd: SVD
):
    clip = truth(scene, svd.config["frames"], svd.config["size"][0]).float() / 255
    settings = Settings(steps=8, in_betweens=len(clip) - 2)
    film = interpolate(svd, [clip[0], clip[-1]], settings, load_adapter(ADAPTERS[name]))
    to_first, to_last = (psnr(film[1:-1], end[None].expand_as(film[1:-1])) for end in (clip[0], clip[-1]))
    # 2 dB of room; the base alone stays with the first picture
    assert to_first[0] > to_last[0] + 2 and to_last[-1] > to_first[-1] + 2, (to_first, to_last)
