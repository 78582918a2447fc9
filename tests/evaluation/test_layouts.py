"""Data sets told by what lies in their folder, each made here in miniature."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("cv2", reason="needs the extra 'eval'")
pytest.importorskip("av", reason="needs the extra 'eval'")

import numpy as np
import torch
from PIL import Image

from vfi_core.evaluation import ucf101, windows
from vfi_core.evaluation.davis import protocol
from vfi_core.evaluation.films import films_in, read_film
from vfi_core.evaluation.layouts import Wanted, open_sets
from vfi_core.evaluation.windows import apart
from vfi_core.media import write_film


def film(frames: int, height: int = 24, width: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def write_pictures(folder: Path, frames: np.ndarray, name: str = "{:03d}.png") -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / name.format(i))
    return frames


def write_video(path: Path, frames: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_film(torch.from_numpy(frames), path, 10)


def test_folders_that_a_manifest_names_come_back_as_they_were_written(tmp_path: Path):
    truth = write_pictures(tmp_path / "cat", film(5))
    write_pictures(tmp_path / "not named", film(5))
    (tmp_path / "manifest.json").write_text(json.dumps({"clips": [{"clip": "cat"}]}))
    (clips,) = open_sets(tmp_path, Wanted(frames=4))
    assert clips.names == ("cat",) and clips.name == tmp_path.name
    assert np.array_equal(clips.read("cat"), truth[:4])
    with pytest.raises(ValueError, match="holds 5 frames and 7 were asked for"):
        open_sets(tmp_path, Wanted(frames=7))


def test_any_folder_of_pictures_and_videos_is_a_set(tmp_path: Path):
    truth = write_pictures(tmp_path / "b", film(12), "{}.png")
    write_video(tmp_path / "a.mp4", film(4))
    (clips,) = open_sets(tmp_path, Wanted(frames=3))
    assert clips.names == ("a", "b")
    assert clips.read("a").shape == (3, 24, 32, 3)
    assert np.array_equal(read_film(tmp_path / "b"), truth)  # 2.png stands before 10.png
    with pytest.raises(ValueError, match="holds 4 frames and 5 were asked for"):
        open_sets(tmp_path, Wanted(frames=5))[0].read("a")


def test_two_films_of_one_name_and_frames_of_two_sizes_are_refused(tmp_path: Path):
    write_pictures(tmp_path / "a", film(2))
    write_pictures(tmp_path / "a", film(1, 16), "{:03d}b.png")
    with pytest.raises(ValueError, match="holds frames of 32x24 and of 32x16"):
        read_film(tmp_path / "a")
    write_video(tmp_path / "a.mp4", film(2))
    with pytest.raises(ValueError, match="two films called 'a'"):
        films_in(tmp_path)


def test_pairs_come_with_the_films_published_beside_them(tmp_path: Path):
    for i in ("2", "10"):
        write_video(tmp_path / f"{i}_input.mp4", film(2))
        write_video(tmp_path / f"{i}_gt.mp4", film(3))
        write_video(tmp_path / f"{i}_vidm.mp4", film(3, seed=1))
    (clips,) = open_sets(tmp_path, Wanted(frames=7))
    assert clips.names == ("2", "10")
    assert clips.read("2").shape == (5, 24, 32, 3)
    assert list(clips.films) == ["VIDIM (published)"]
    assert np.array_equal(clips.films["VIDIM (published)"]("10"), read_film(tmp_path / "10_vidm.mp4"))
    (tmp_path / "10_input.mp4").unlink()
    with pytest.raises(ValueError, match="only one of 10_input.mp4 and 10_gt.mp4"):
        open_sets(tmp_path, Wanted())


@pytest.mark.parametrize("zipped", [False, True])
def test_davis_is_cut_into_chunks_of_nine_that_share_no_frame(tmp_path: Path, zipped: bool):
    root = tmp_path / "DAVIS"
    for shot, count in (("bear", 19), ("cow", 9), ("dog", 8), ("new", 9)):
        write_pictures(root / "JPEGImages/480p" / shot, film(count, 32, 48), "{:05d}.jpg")
    (root / "ImageSets/2016").mkdir(parents=True)
    (root / "ImageSets/2016/train.txt").write_text("bear\ndog\n")
    (root / "ImageSets/2016/val.txt").write_text("cow\n")
    place = root
    if zipped:
        place = tmp_path / "davis.zip"
        with zipfile.ZipFile(place, "w") as archive:
            for path in sorted(root.rglob("*.*")):
                archive.write(path, path.relative_to(tmp_path))
    (clips,) = open_sets(place, Wanted(frames=7))
    assert clips.names == ("bear-000", "bear-009", "cow-000")
    assert clips.notes == ("3 shots; the published figures are of 50.",)
    assert clips.read("bear-009").shape == (9, 256, 256, 3)


def test_davis_frames_are_averaged_in_linear_light():
    frame = np.zeros((512, 600, 3), np.uint8)
    frame[:, 1::2] = 200  # every second column, the cut starts at an even one
    # half the light of 200 at gamma 2.2, not half its value
    assert np.unique(protocol(frame)).tolist() == [round(200 * 0.5 ** (1 / 2.2))]


def test_vimeo_lists_name_septuplets_and_triplets(tmp_path: Path):
    write_pictures(tmp_path / "sequences/00001/0266", film(8), "im{}.png")  # theirs count from 1
    (tmp_path / "sep_testlist.txt").write_text("00001/0266\n\n")
    (tmp_path / "tri_testlist.txt").write_text("00001/0266\n")
    seven, three = open_sets(tmp_path, Wanted(frames=9))
    assert seven.name.endswith("-septuplets") and three.name.endswith("-triplets")
    assert np.array_equal(seven.read("00001-0266"), film(8)[1:])
    assert np.array_equal(three.read("00001-0266"), film(8)[1:4])


@pytest.mark.parametrize("folder", ["", "eval_modes"])
def test_snu_film_gives_a_set_for_each_difficulty(tmp_path: Path, folder: str):
    write_pictures(tmp_path / "test/GOPRO_test/G1", film(5))
    (tmp_path / folder).mkdir(exist_ok=True)
    above = "data/SNU-FILM/test/GOPRO_test/G1"
    for level, step in (("easy", 1), ("hard", 2)):
        line = " ".join(f"{above}/{i:03d}.png" for i in (2 - step, 2, 2 + step))
        (tmp_path / folder / f"test-{level}.txt").write_text(line + "\n")
    easy, hard = open_sets(tmp_path, Wanted())
    assert (easy.name, hard.name) == (f"{tmp_path.name}-easy", f"{tmp_path.name}-hard")
    assert easy.names == ("test-GOPRO_test-G1-002",)
    assert np.array_equal(easy.read(easy.names[0]), film(5)[1:4])
    assert np.array_equal(hard.read(hard.names[0]), film(5)[::2])
    (tmp_path / folder / "test-hard.txt").write_text("gone/1.png gone/2.png gone/3.png\n")
    with pytest.raises(ValueError, match="no three pictures below"):
        open_sets(tmp_path, Wanted())


def test_ucf101_takes_the_first_chunks_of_the_test_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ucf101, "EXAMPLES", 3)
    for name in ("v_a", "v_b", "v_c"):
        write_video(tmp_path / f"UCF-101/Archery/{name}.mp4", film(19, 16, 20))
    (tmp_path / "testlist01.txt").write_text("Archery/v_b.mp4\nArchery/v_a.mp4\nArchery/v_c.mp4\n")
    (clips,) = open_sets(tmp_path, Wanted())
    assert clips.names == ("v_b-000", "v_b-009", "v_a-000")
    assert clips.read("v_b-009").shape == (9, 256, 256, 3)
    (tmp_path / "testlist01.txt").write_text("Archery/v_gone.avi\n")
    with pytest.raises(ValueError, match="no video Archery/v_gone.avi"):
        open_sets(tmp_path, Wanted())


def write_training_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty frames whose value is their index."""
    frames = torch.arange(60, dtype=torch.uint8)[:, None, None, None].expand(60, 16, 20, 3)
    listed = [
        {"video": "a.mp4", "start": s, "stride": d, "frames": 7} for s in range(0, 40, 3) for d in (1, 2, 3)
    ]
    (root / "windows.json").write_text(json.dumps({"windows": listed}))
    (root / "manifest.json").write_text("{}")  # of the videos, not of clips
    monkeypatch.setattr(windows, "video_frames", lambda path: iter(frames))


def test_held_out_windows_share_no_frame_and_are_the_same_every_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_training_folder(tmp_path, monkeypatch)
    (clips,) = open_sets(tmp_path, Wanted(7, ["a.mp4"]))
    assert clips.names == open_sets(tmp_path, Wanted(7, ["a.mp4"]))[0].names and len(clips) > 2
    shown = [int(value) for name in clips.names for value in clips.read(name)[:, 0, 0, 0]]
    assert len(shown) == len(set(shown)) == 7 * len(clips)
    assert len(open_sets(tmp_path, Wanted(7, ["a.mp4"], 2))[0]) == 2


def test_windows_do_not_depend_on_the_order_in_the_file():
    listed = [{"start": s, "stride": d} for s in range(0, 50, 2) for d in (1, 2)]
    assert apart(listed, 7, "a") == apart(listed[::-1], 7, "a")


def test_unknown_videos_and_a_missing_list_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_training_folder(tmp_path, monkeypatch)
    with pytest.raises(ValueError, match="no window of 7 frames in the video 'b.mp4'"):
        open_sets(tmp_path, Wanted(7, ["b.mp4"]))
    with pytest.raises(ValueError, match="--held-out"):
        open_sets(tmp_path, Wanted(7))
    (tmp_path / "windows.json").write_text("not json")
    with pytest.raises(ValueError, match="not a list of windows"):
        open_sets(tmp_path, Wanted(7, ["a.mp4"]))


def test_a_folder_of_something_else_is_told_what_there_could_be(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("no clips")
    with pytest.raises(ValueError, match="no data set that is known; give DAVIS"):
        open_sets(tmp_path, Wanted())
    with pytest.raises(ValueError, match="does not exist"):
        open_sets(tmp_path / "gone", Wanted())
    (tmp_path / "manifest.json").write_text('{"clips": []}')
    with pytest.raises(ValueError, match="holds no clip"):
        open_sets(tmp_path, Wanted())
