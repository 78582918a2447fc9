"""The pool on disk: what it holds, that nothing but its settings decides of its bits, and what it refuses."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.svd.toys import toy_svd
from tests.training.scenes import FORKED, opened, sequences
from vfi_core.svd.pictures import embed, encode
from vfi_core.training import pool as pools
from vfi_core.training.pool import ALONE, Crew, LatentPool, latent_pool

CPU = torch.device("cpu")


@pytest.fixture
def data(tmp_path) -> Path:
    return sequences(tmp_path / "data", 2)


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr(pools, "SHARD", 8)
    monkeypatch.setattr(pools, "DRAWN", 2)


def quiet(line: str) -> None:
    pass


def made(
    root: Path,
    out: Path,
    name: str = "pool",
    log=quiet,
    svd=None,
    frozen=True,
    augmentation=0.0,
    crew=ALONE,
    **settings,
):
    clips = opened(root, out, **{"frames": (3,), "pool": 12, "procedural": 0.3} | settings)
    return latent_pool(svd or toy_svd(), clips, out / name, augmentation, frozen, log, crew)


def bits(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.glob("*.safetensors"))}


def test_a_pool_in_memory_hands_out_clips_forwards_and_backwards_each_with_its_own_ends():
    times = torch.arange(5.0)
    latents = times.view(1, 5, 1, 1, 1).expand(3, 5, 4, 8, 8).half()
    ends = torch.tensor([0, 255]).view(1, 2, 1, 1, 1).expand(3, 2, 3, 64, 64).byte()
    file = {"counts": torch.tensor([5, 5, 5]), "latents": latents.flatten(0, 1), "ends": ends}
    drawn = LatentPool([file]).draw(16, torch.Generator().manual_seed(0), CPU)
    backwards = drawn.latents[:, 0, 0, 0, 0] == 4
    assert 0 < backwards.sum() < 16 and drawn.embeddings is None and drawn.ends is not None
    for clip, shown, pair, reverse in zip(drawn.latents, drawn.shown, drawn.pictures, backwards, strict=True):
        assert torch.equal(clip[:, 0, 0, 0], times.flip(0) if reverse else times)
        assert torch.equal(pair[:, 0, 0, 0], torch.tensor([1.0, -1.0] if reverse else [-1.0, 1.0]))
        assert torch.equal(shown, clip[[0, -1]])
    forwards = LatentPool([file], backwards=False).draw(16, torch.Generator().manual_seed(0), CPU)
    assert (forwards.latents[:, 0] == 0).all()


@torch.no_grad()
def test_what_is_kept_is_what_the_base_makes_of_each_clip(data, tmp_path):
    svd = toy_svd()
    frozen = made(data, tmp_path, "frozen", pool=2, augmentation=0.1)
    trained = made(data, tmp_path, "trained", pool=2, augmentation=0.1, frozen=False)
    clips = opened(data, tmp_path, frames=(3,), procedural=0.3).draw(1 + 7919, 0, 2, 3)
    kept, bare = (load_file(tmp_path / name / "00000.safetensors") for name in ("frozen", "trained"))
    latents = encode(svd, clips.flatten(0, 1), at_once=6).half()
    assert torch.equal(kept["latents"], latents) and torch.equal(bare["latents"], latents)
    pictures = ((clips[:, [0, -1]] + 1) * 127.5).round().byte()
    assert torch.equal(bare["ends"], pictures) and "shown" not in bare and "ends" not in kept
    unit = pictures.float() / 127.5 - 1
    assert torch.equal(kept["embeddings"].flatten(0, 1), embed(svd.image_encoder, unit.flatten(0, 1)))
    clean = encode(svd, unit.flatten(0, 1)).unflatten(0, (2, 2))
    noise = (kept["shown"].float() - clean).std()
    assert 0.01 < noise and not torch.equal(kept["shown"][0], kept["shown"][1])
    drawn = frozen.draw(4, torch.Generator().manual_seed(1), CPU)
    assert drawn.shown.shape == (4, 2, 4, 8, 8) and drawn.embeddings.shape == (4, 2, 32)
    assert drawn.ends is None and drawn.latents.dtype == torch.float32
    assert trained.draw(4, torch.Generator().manual_seed(1), CPU).ends.shape == (4, 2, 3, 64, 64)


@FORKED
def test_the_bits_do_not_depend_on_how_many_processes_draw(data, tmp_path):
    for workers in (0, 2):
        made(data, tmp_path / f"{workers}", workers=workers, augmentation=0.1)
    one, other = (bits(tmp_path / name / "pool") for name in "02")
    assert one == other and len(one) == 2
    indices = [bits(tmp_path / name / "footage") for name in "02"]
    assert indices[0] == indices[1]


def test_lengths_vary_over_a_pool_and_never_within_a_batch(data, tmp_path):
    pool = made(data, tmp_path, frames=(3, 5), pool=32)
    g, seen = torch.Generator().manual_seed(0), set()
    for _ in range(20):
        batch = pool.draw(3, g, CPU)
        assert batch.shown.shape[:2] == (3, 2)
        torch.testing.assert_close(batch.shown, batch.latents[:, [0, -1]], rtol=0, atol=0)
        seen.add(batch.latents.shape[1])
    assert seen == {3, 4, 5}


def test_without_reversal_no_clip_is_drawn_backwards(data, tmp_path):
    pool = made(data, tmp_path, reversal=False, pool=4)
    whole = load_file(tmp_path / "pool" / "00000.safetensors")["latents"].float().unflatten(0, (4, 3))
    for clip in pool.draw(16, torch.Generator().manual_seed(0), CPU).latents:
        assert any(torch.equal(clip, one) for one in whole)


SETTINGS = {
    "size": {"size": (64, 128)},
    "frames": {"frames": (3, 4)},
    "stride": {"stride": (2,)},
    "reversal": {"reversal": False},
    "flips": {"flips": False},
    "crops": {"crops": False},
    "favour_motion": {"favour_motion": 0.0},
    "skip_cuts": {"skip_cuts": False},
    "skip_held": {"skip_held": False},
    "procedural": {"procedural": 0.5},
    "pool": {"pool": 2},
    "seed": {"seed": 2},
    "augmentation": {"augmentation": 0.02},
    "vae": {"svd": "other"},
    "image_encoder": {"frozen": False},
}


def test_a_pool_of_other_settings_is_refused_by_the_setting_that_differs(data, tmp_path):
    made(data, tmp_path, pool=4)
    before = bits(tmp_path / "pool")
    assert made(data, tmp_path, pool=4, workers=1, max_corrupt=0.1).fingerprint  # these decide of nothing
    for name, change in SETTINGS.items():
        change = change | ({"svd": toy_svd(seed=1)} if "svd" in change else {})
        with pytest.raises(ValueError, match=f"was made with {name} = .* move it away to make it anew"):
            made(data, tmp_path, **{"pool": 4} | change)
    assert bits(tmp_path / "pool") == before


def test_two_processes_share_the_files_and_make_the_pool_of_one(data, tmp_path):
    made(data, tmp_path, "one", pool=20)
    said: dict[int, list[str]] = {0: [], 1: []}

    def second() -> None:  # the first one waits meanwhile
        if not said[1]:
            made(data, tmp_path, "two", said[1].append, crew=Crew(1, 2, lambda: None), pool=20)

    made(data, tmp_path, "two", said[0].append, crew=Crew(0, 2, second), pool=20)
    shares = [[line for line in said[rank] if line.startswith("encoding clips")] for rank in (0, 1)]
    assert shares == [
        ["encoding clips 0 to 7 of 20", "encoding clips 16 to 19 of 20"],
        ["encoding clips 8 to 15 of 20"],
    ]
    assert bits(tmp_path / "two") == bits(tmp_path / "one")


def test_a_process_makes_what_the_others_left_on_a_disk_of_their_own(data, tmp_path):
    made(data, tmp_path, "one", pool=20)
    pool = made(data, tmp_path, "two", crew=Crew(1, 2, lambda: None), pool=20)
    assert len(pool) == 20 and bits(tmp_path / "two") == bits(tmp_path / "one")


def test_a_pool_of_other_films_is_refused(data, tmp_path):
    made(data, tmp_path, pool=4)
    with pytest.raises(
        ValueError, match="footage was made with held_out = .. and is asked for with held_out = ..film1.."
    ):
        made(data, tmp_path, pool=4, held_out=("film1",))
    with pytest.raises(ValueError, match="pool was made with held_out = "):
        latent_pool(
            toy_svd(),
            opened(data, tmp_path / "b", held_out=("film1",), frames=(3,), pool=4),
            tmp_path / "pool",
        )
    picture = data / "film0" / "0001.png"
    os.utime(picture, (1, 1))
    with pytest.raises(ValueError, match="footage was made with films = "):
        made(data, tmp_path, pool=4)
    with pytest.raises(ValueError, match="pool was made with films = "):
        latent_pool(
            toy_svd(), opened(data, tmp_path / "c", frames=(3,), pool=4, procedural=0.3), tmp_path / "pool"
        )


def test_a_damaged_or_foreign_file_is_told(data, tmp_path):
    made(data, tmp_path, pool=12)
    first = tmp_path / "pool" / "00000.safetensors"
    whole = first.read_bytes()
    first.write_bytes(whole[:1000])
    with pytest.raises(
        ValueError, match="00000.safetensors is damaged .* delete it, and it will be made anew"
    ):
        made(data, tmp_path, pool=12)
    first.unlink()
    made(data, tmp_path, pool=12)
    assert first.read_bytes() == whole
    made(data, tmp_path, "other", pool=12, seed=5)
    first.write_bytes((tmp_path / "other" / first.name).read_bytes())
    with pytest.raises(ValueError, match="made with other settings; delete it"):
        made(data, tmp_path, pool=12)
    (tmp_path / "pool" / "settings.json").write_text("{")
    with pytest.raises(ValueError, match="settings.json is damaged"):
        made(data, tmp_path, pool=12)


def test_the_room_is_told_before_the_work_and_a_full_disk_is_refused(data, tmp_path, monkeypatch):
    log: list[str] = []
    made(data, tmp_path, pool=12, log=log.append, augmentation=0.1)
    (said,) = [line for line in log if line.startswith("encoding 12 clips into")]
    assert "GB are free" in said
    usage = pools.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(pools.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(ValueError, match="free and the pool takes .* lower pool .12. or give another cache"):
        made(data, tmp_path, "full", pool=12)
    assert not list((tmp_path / "full").glob("*.safetensors"))


def test_the_estimate_is_what_the_disk_takes(data, tmp_path):
    for name, frozen, augmentation in (("a", True, 0.0), ("b", True, 0.1), ("c", False, 0.0)):
        made(data, tmp_path, name, pool=12, frozen=frozen, augmentation=augmentation)
        clips = opened(data, tmp_path, frames=(3,), pool=12)
        estimate = pools._Encoder(toy_svd(), pools._Plan(clips), augmentation, frozen).size(36, 12)
        taken = sum(
            tensor.nbytes for f in (tmp_path / name).glob("*.safetensors") for tensor in load_file(f).values()
        )
        assert taken == estimate


def encode_all(root: Path, out: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    made(root, out, pool=16, augmentation=0.1)
    torch.set_num_threads(threads)


@FORKED
def test_a_pool_killed_at_random_moments_ends_in_the_same_bits(data, tmp_path, monkeypatch):
    monkeypatch.setattr(pools, "SHARD", 2)
    chance = random.Random(0)
    folder = tmp_path / "killed" / "pool"
    opened(data, folder.parent, frames=(3,))
    for kill in range(int(os.environ.get("SVD_VFI_KILLS", "2"))):
        run = multiprocessing.get_context("fork").Process(target=encode_all, args=(data, folder.parent))
        before = len(bits(folder))
        run.start()
        while run.is_alive() and len(bits(folder)) == before:
            time.sleep(0.002)
        time.sleep(chance.random() * 0.05)
        run.kill()
        run.join()
        assert kill or 0 < len(bits(folder)) < 8  # or nothing was killed half way
    encode_all(data, folder.parent)
    encode_all(data, tmp_path / "whole")
    one, other = bits(folder), bits(tmp_path / "whole" / "pool")
    assert len(one) == 8 and one == other
