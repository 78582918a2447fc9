"""Clips from every layout: what may be drawn, what never is, and that a draw is a function of its numbers."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.training.scenes import (
    FORKED,
    LAYOUTS,
    a_list,
    opened,
    save_frames,
    save_video,
    scene,
    septuplets,
    sequences,
    videos,
)
from tests.training.scenes import (
    windows as listed_windows,
)
from vfi_core.training.clips_config import ClipsConfig
from vfi_core.training.config import build
from vfi_core.training.films import find_films, hold_out
from vfi_core.training.footage import CUT, HELD, look_through
from vfi_core.training.ordered import in_order, one_ahead
from vfi_core.training.procedural import procedural_clip
from vfi_core.training.windows import even_windows


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_told_from_its_content_and_draws_the_same_clip_for_the_same_numbers(layout, tmp_path):
    root = LAYOUTS[layout](tmp_path / "data")
    found, films = find_films(root)
    assert found == layout and len(films) == 3
    one, other = (opened(root, tmp_path / folder, procedural=0.3) for folder in ("one", "two"))
    clip = one.draw(1, 5, 2, 7)
    assert clip.shape == (2, 7, 3, 64, 64) and clip.abs().max() <= 1
    other.draw(1, 4, 2, 7)
    assert torch.equal(clip, other.draw(1, 5, 2, 7))
    assert not torch.equal(clip, one.draw(1, 6, 2, 7)) and not torch.equal(clip, one.draw(2, 5, 2, 7))


def test_plain_scenes_have_flatter_surfaces_and_a_pool_of_their_own(tmp_path):
    def texture(contrast: float) -> float:
        """How much neighbouring pixels differ, the median: edges are few."""
        scenes = (
            procedural_clip(torch.Generator().manual_seed(i), 2, 64, contrast=contrast) for i in range(8)
        )
        steps = torch.cat([scene.diff(dim=-1).abs().flatten() for scene in scenes])
        return steps.quantile(0.5).item()

    assert texture(0.0) < texture(0.3) < texture(1.0)
    drawn = [
        opened(videos(tmp_path / n), tmp_path / n, procedural=1.0, plain=p)
        for n, p in (("a", 0.0), ("b", 1.0))
    ]
    assert drawn[0].fingerprint != drawn[1].fingerprint  # so a pool of the one is no pool of the other


class Unread:
    """Windows of films that nobody may draw."""

    def draw(self, g: torch.Generator, length: int) -> torch.Tensor:
        raise AssertionError("a film was read")


def test_a_plain_scene_reads_no_film_and_stands_still_without_motion(tmp_path):
    root = videos(tmp_path / "a")
    settings = {"procedural": 1.0, "plain": 1.0}
    still = replace(opened(root, tmp_path / "b", **settings, motion=0.0), windows=Unread()).draw(1, 0, 8, 3)
    moved = replace(opened(root, tmp_path / "b", **settings), windows=Unread()).draw(1, 0, 8, 3)
    assert all(torch.equal(still[:, 0], still[:, i]) for i in (1, 2))
    assert not torch.equal(moved[:, 0], moved[:, 2])


def test_vimeo_is_found_around_its_folder_and_its_test_half_is_never_read(tmp_path):
    septuplets(tmp_path / "vimeo_septuplet")
    layout, films = find_films(tmp_path)
    assert layout == "septuplets"
    assert [f.name for f in films] == ["00001/0001", "00001/0002", "00002/0001"]


def test_what_fits_no_layout_is_told_in_one_sentence(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ValueError, match="holds no windows.json, no Vimeo-90K .* no videos"):
        find_films(tmp_path)
    with pytest.raises(ValueError, match="gone"):
        find_films(tmp_path / "gone")
    sequences(videos(tmp_path / "both"))
    with pytest.raises(ValueError, match="both videos .0.mp4, .* pictures .film0, .* in a .txt list"):
        find_films(tmp_path / "both")
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(ValueError, match="names no film"):
        find_films(tmp_path / "empty.txt")


def names_drawn(clips, draws: int = 40) -> set[int]:
    """Which of the flat scenes 0, 1, ... were drawn, by their brightness."""
    return {round((clips.draw(1, i, 1, 3).mean().item() + 1) * 127.5 / 40) for i in range(draws)}


def flat(value: int, frames: int = 6) -> Tensor:
    """Frames of brightness 40 x ``value`` with a bar that moves."""
    film = torch.full((frames, 64, 64, 3), 40 * value, dtype=torch.uint8)
    for i in range(frames):
        film[i, :, 5 * i : 5 * i + 2] += 20
    return film


@pytest.mark.parametrize("held", [("b/2", "3"), ("b", "3")])
def test_held_out_films_are_never_drawn_nor_looked_at(held, tmp_path):
    for name in ("a/1", "b/2", "3", "b/4"):
        save_frames(flat(int(name[-1])), tmp_path / "data" / name)
    clips = opened(tmp_path / "data", tmp_path / "out", held_out=held, crops=False, frames=(3,))
    assert names_drawn(clips) == ({1, 4} if "b/2" in held else {1})
    assert {f.name for f in clips.windows.footage.films} == ({"a/1", "b/4"} if "b/2" in held else {"a/1"})


def test_a_name_that_holds_nothing_out_is_refused(tmp_path):
    _, films = find_films(sequences(tmp_path))
    with pytest.raises(ValueError, match="no film 'film9' to hold out"):
        hold_out(films, ["film9"], tmp_path)
    with pytest.raises(ValueError, match="no film left"):
        hold_out(films, [f"film{i}" for i in range(3)], tmp_path)


def test_a_film_under_two_names_is_one_and_cannot_slip_past_being_held_out(tmp_path):
    save_frames(flat(1), tmp_path / "data" / "a")
    save_frames(flat(2), tmp_path / "data" / "b")
    (tmp_path / "data" / "films.txt").write_text("a\n./a\nb\n")
    _, films = find_films(tmp_path / "data" / "films.txt")
    assert [film.name for film in hold_out(films, ["a"], tmp_path)] == ["b"]
    (tmp_path / "data" / "b" / "again").symlink_to(tmp_path / "data", target_is_directory=True)
    _, films = find_films(tmp_path / "data")
    assert [film.name for film in films] == ["a", "b"]


def test_cuts_and_held_frames_never_lie_inside_a_window(tmp_path):
    first, second = scene(0, 14), scene(9, 14)
    held = torch.cat([second[:6], second[5:]])
    save_video(torch.cat([first, held]), tmp_path / "data" / "cut.mp4")
    clips = opened(tmp_path / "data", tmp_path / "out", stride=(1, 2), frames=(3,))
    footage = clips.windows.footage
    assert np.flatnonzero(footage.gaps & CUT).tolist() == [13]
    assert np.flatnonzero(footage.gaps & HELD).tolist() == [19]
    for stride in (1, 2):
        for start in clips.windows._of(3)[stride].starts:
            inside = set(range(start, start + 2 * stride))
            assert not inside & {13, 19}
    free = opened(tmp_path / "data", tmp_path / "out", skip_cuts=False, skip_held=False, frames=(3,))
    assert free.windows.count(3) == (29 - 2, 1) and clips.windows.count(3)[0] < 2 * 27


def test_a_window_is_one_in_which_time_passes_evenly():
    open_end = np.zeros(24, bool)
    open_end[-1] = True
    twos = np.arange(24) % 2 == 0  # every picture shown twice
    assert len(even_windows(open_end, twos, 4, 1)) == 0
    assert even_windows(open_end, twos, 4, 2).tolist() == list(range(24 - 6))
    telecined = np.arange(24) % 5 == 3  # four pictures shown in the time of five
    assert all(start % 5 in (0, 4) for start in even_windows(open_end, telecined, 4, 1))
    assert len(even_windows(open_end, telecined, 4, 2)) == 0
    assert len(even_windows(open_end, telecined, 4, 5)) == 24 - 15
    still = np.ones(24, bool)
    assert len(even_windows(open_end, still, 4, 3)) == 0
    ends = np.arange(24) % 12 == 11
    assert even_windows(ends, np.zeros(24, bool), 4, 3).tolist() == [0, 1, 2, 12, 13, 14]


def test_strides_and_lengths_are_drawn_over_their_whole_ranges(tmp_path):
    brightness = torch.arange(40, dtype=torch.uint8).view(-1, 1, 1, 1) * 3
    film = scene(0, 1, 64, 64) // 2 + brightness
    save_frames(film, tmp_path / "data" / "ramp")
    clips = opened(tmp_path / "data", tmp_path / "out", stride=(1, 3), frames=(3, 5))
    assert {clips.length(1, i) for i in range(40)} == {3, 4, 5}
    steps = {
        round(abs(c[1] - c[0]).mean().item() * 127.5 / 3) for i in range(30) for c in clips.draw(1, i, 1, 3)
    }
    assert steps == {1, 2, 3}


def test_reversal_is_the_reverse_and_a_flip_is_the_mirror(tmp_path):
    root = sequences(tmp_path / "data")
    settings = [{"reversal": r, "flips": f} for r in (False, True) for f in (False, True)]
    plain, mirrored, backwards, both = (opened(root, tmp_path / "out", **s) for s in settings)
    seen = set()
    for i in range(12):
        clip = plain.draw(1, i, 1, 5)[0]
        m, b, every = (c.draw(1, i, 1, 5)[0] for c in (mirrored, backwards, both))
        assert torch.equal(m, clip) or torch.equal(m, clip.flip(-1))
        assert torch.equal(b, clip) or torch.equal(b, clip.flip(0))
        seen.add((torch.equal(m, clip), torch.equal(b, clip)))
        turned = clip if torch.equal(m, clip) else clip.flip(-1)
        assert torch.equal(every, turned if torch.equal(b, clip) else turned.flip(0))
    assert len(seen) == 4


def test_a_crop_keeps_its_proportions_and_is_no_smaller_than_the_clip(tmp_path):
    # Pixels say where they lie, red by row and green by column.
    rows, columns = torch.meshgrid(torch.arange(200), torch.arange(240), indexing="ij")
    picture = torch.stack([rows, columns, torch.zeros_like(rows)], -1).byte()
    film = torch.stack([picture] * 4)
    film[..., 2] = torch.arange(4, dtype=torch.uint8).view(-1, 1, 1) * 50
    save_frames(film, tmp_path / "data" / "map")
    clips = opened(tmp_path / "data", tmp_path / "out", size=(64, 128), flips=False, frames=(3,))
    heights = []
    for i in range(20):
        first = (clips.draw(1, i, 1, 3)[0, 0] + 1) * 127.5
        assert first.shape == (3, 64, 128)
        tall = (first[0, -1, 0] - first[0, 0, 0]) / 63 * 64
        wide = (first[1, 0, -1] - first[1, 0, 0]) / 127 * 128
        assert wide.item() == pytest.approx(2 * tall.item(), abs=3)
        heights.append(tall.item())
    assert min(heights) > 63 and max(heights) > 100 and max(heights) < 121
    whole = opened(tmp_path / "data", tmp_path / "out", size=(64, 128), crops=False, flips=False, frames=(3,))
    first = (whole.draw(1, 0, 1, 3)[0, 0] + 1) * 127.5
    assert first[0].mean().item() == pytest.approx(99.5, abs=0.6)
    assert first[1, 0, -1] - first[1, 0, 0] > 235


def test_a_film_smaller_than_the_clip_is_enlarged_whole(tmp_path):
    save_frames(scene(0, 7, 40, 60), tmp_path / "data" / "small")
    assert opened(tmp_path / "data", tmp_path / "out").draw(1, 0, 1, 7).shape == (1, 7, 3, 64, 64)


def test_large_motion_can_be_favoured(tmp_path):
    save_frames(scene(0) // 8, tmp_path / "data" / "faint")
    save_frames(scene(0, step=6), tmp_path / "data" / "wide")
    wide = {}
    for favour in (0.0, 2.0):
        clips = opened(tmp_path / "data", tmp_path / "out", favour_motion=favour, flips=False, crops=False)
        moved = torch.stack([clips.draw(1, i, 1, 5)[0] for i in range(40)])
        wide[favour] = int(((moved[:, 0] - moved[:, -1]).abs().mean((1, 2, 3)) > 0.2).sum())
    assert 10 < wide[0.0] < 30 < wide[2.0]


def corrupt_folder(root: Path) -> list[str]:
    """Three whole films and five that are not: the names of these."""
    for i in range(3):
        save_video(scene(i), root / f"whole{i}.mp4")
    (root / "empty.mp4").touch()
    (root / "text.mp4").write_text("this is no film\n" * 50)
    cut = save_video(scene(3, 40), root / "cut.mp4")
    cut.write_bytes(cut.read_bytes()[:3000])
    return ["cut.mp4", "empty.mp4", "text.mp4"]


def test_corrupt_videos_are_named_counted_and_skipped(tmp_path):
    bad, log = corrupt_folder(tmp_path / "data"), []
    clips = opened(tmp_path / "data", tmp_path / "out", log.append)
    clips.draw(1, 0, 4, 7)
    skipped = [line for line in log if line.startswith("skipped")]
    assert [line.split()[1] for line in skipped] == [f"{name}:" for name in bad]
    assert any("3 of 6 skipped, named in" in line for line in log)
    written = (tmp_path / "out" / "skipped.txt").read_text().splitlines()
    assert [line.split(":")[0] for line in written] == bad
    # Looked through once: the second time they are counted and no longer read.
    again: list[str] = []
    opened(tmp_path / "data", tmp_path / "out", again.append)
    assert any("3 of 6 skipped" in line for line in again)
    assert not any(line.startswith(("skipped", "looking")) for line in again)
    with pytest.raises(
        ValueError, match="3 of 6 films are not whole, the first being cut.mp4: .* max_corrupt"
    ):
        opened(tmp_path / "data", tmp_path / "out", max_corrupt=0.4)


def test_corrupt_pictures_are_named_counted_and_skipped(tmp_path):
    root, log = septuplets(tmp_path / "data", 6), []
    folders = sorted((root / "sequences").glob("*/*"))
    (folders[0] / "im4.png").unlink()
    torn = folders[1] / "im3.png"
    torn.write_bytes(torn.read_bytes()[:200])
    save_frames(scene(1, 1, 32, 32), folders[2], "im{}.png", 5)
    clips = opened(root, tmp_path / "out", log.append)
    skipped = [line for line in log if line.startswith("skipped")]
    assert len(skipped) == 3 and len(clips.windows.footage.films) == 3
    assert "im4.png does not exist" in skipped[0]
    assert "im3.png is damaged" in skipped[1]
    assert "changes its size at frame 4" in skipped[2]


def test_a_list_names_what_is_missing_and_a_sequence_what_it_lacks(tmp_path):
    path, log = a_list(tmp_path / "data"), []
    path.write_text(path.read_text() + "gone.mp4\nbare\n")
    (tmp_path / "data" / "bare").mkdir()
    (tmp_path / "data" / "frames" / "b" / "0006.png").unlink()
    clips = opened(path, tmp_path / "out", log.append, max_corrupt=0.6)
    skipped = [line for line in log if line.startswith("skipped")]
    assert [line.split()[1] for line in skipped] == ["frames/b:", "gone.mp4:", "bare:"]
    assert "lacks the picture after 0005.png" in skipped[0] and "does not exist" in skipped[1]
    assert len(clips.windows.footage.films) == 2


def test_nothing_whole_is_an_error(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.mp4").touch()
    with pytest.raises(ValueError, match="1 of 1 films are not whole, the first being a.mp4"):
        opened(tmp_path / "data", tmp_path / "out", max_corrupt=1.0)


def test_a_damaged_video_of_windows_json_is_skipped_too(tmp_path):
    root, log = listed_windows(tmp_path / "data"), []
    (root / "videos" / "1.mp4").write_text("no film")
    clips = opened(root, tmp_path / "out", log.append)
    assert {w["video"] for w in clips.windows.windows} == {"0.mp4", "2.mp4"}
    assert any("1 of 3 skipped" in line for line in log)


def test_windows_json_is_told_from_what_is_none_and_keeps_its_own_strides(tmp_path):
    root = listed_windows(tmp_path)
    with pytest.raises(ValueError, match="strides of its own"):
        opened(root, tmp_path / "out", stride=(2,))
    with pytest.raises(ValueError, match="a window of 7 frames, too short for clips of 9; use fewer"):
        opened(root, tmp_path / "out", frames=(5, 9))
    (root / "windows.json").write_text(json.dumps({"windows": [{"video": "0.mp4"}]}))
    with pytest.raises(ValueError, match="no list of training windows"):
        opened(root, tmp_path / "out")


def test_the_index_goes_on_after_a_stop_and_is_refused_for_other_films(tmp_path, monkeypatch):
    monkeypatch.setattr("vfi_core.training.footage.SHARD_FILMS", 2)
    root = videos(tmp_path / "data", 5)
    _, films = find_films(root)
    whole = look_through(films, tmp_path / "whole" / "footage", 0, 0.5, lambda line: None)

    def stop(line: str) -> None:
        raise KeyboardInterrupt

    bad = root / "more" / "3.mp4"
    kept = bad.read_bytes()
    bad.write_bytes(kept[:500])
    torn = bad.stat()
    with pytest.raises(KeyboardInterrupt):  # at the first film that is not whole
        look_through(films, tmp_path / "cut" / "footage", 0, 0.5, lambda line: "3.mp4" in line and stop(line))
    begun = sorted((tmp_path / "cut" / "footage").glob("*.safetensors"))
    assert len(begun) == 1
    before = begun[0].stat().st_mtime_ns
    bad.write_bytes(kept)
    with pytest.raises(ValueError, match="made with films = .* asked for with films = "):
        look_through(films, tmp_path / "cut" / "footage", 0, 0.5, lambda line: None)
    bad.write_bytes(kept[:500])
    os.utime(bad, ns=(torn.st_atime_ns, torn.st_mtime_ns))
    footage = look_through(films, tmp_path / "cut" / "footage", 0, 0.5, lambda line: None)
    assert begun[0].stat().st_mtime_ns == before
    assert [f.name for f in footage.films] == ["0.mp4", "more/1.mp4", "more/2.mp4", "more/4.mp4"]
    assert np.array_equal(footage.times[:36], whole.times[:36])


def test_clips_that_no_film_is_long_enough_for_are_refused_at_the_door(tmp_path):
    root = septuplets(tmp_path / "data")
    with pytest.raises(ValueError, match="has no 14 frames in a row .* use fewer frames"):
        opened(root, tmp_path / "out", frames=(5, 14))
    clips = opened(root, tmp_path / "out", frames=(3, 7), stride=(1, 2))
    assert clips.windows.count(7) == (3, 3) and clips.windows.count(4) == (3 * (4 + 1), 3)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"size": 100}, "size is .100.; use one number or two, 64 or more, in multiples of 64"),
        ({"size": [64, 64, 64]}, "size is .64, 64, 64.; use one number or two"),
        ({"frames": 2}, "frames is .2.; use one number or two, 3 or more"),
        ({"frames": [9, 5]}, "frames is .9, 5.; write the lesser first"),
        ({"stride": 0}, "stride is .0.; use one number or two, 1 or more"),
        ({"procedural": 1.5}, "procedural is 1.5; use 0 to 1"),
        ({"plain": -0.1}, "plain is -0.1; use 0 to 1"),
        ({"favour_motion": -1}, "favour_motion is -1"),
        ({"max_corrupt": 2}, "max_corrupt is 2.0; use 0 to 1"),
        ({"pool": 0}, "pool is 0"),
        ({"workers": -1}, "workers is -1"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(setting, sentence):
    with pytest.raises(ValueError, match=sentence):
        build(ClipsConfig, {"root": "x"} | setting, "c.toml")


def test_one_number_is_a_square_and_a_length_and_two_are_height_width_and_a_range():
    config = build(ClipsConfig, {"root": "x", "size": 64, "frames": 7, "held_out": "a.mp4"}, "c.toml")
    assert config.height_width == (64, 64) and config.most_frames == 7 and config.held_out == ("a.mp4",)
    config = build(ClipsConfig, {"root": "x", "size": [256, 448], "frames": [5, 7]}, "c.toml")
    assert config.height_width == (256, 448) and config.most_frames == 7


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=FORKED)])
def test_what_a_process_finds_wrong_is_told_in_its_own_sentence(workers):
    with pytest.raises(ValueError, match="^2 is odd enough$"):
        list(in_order(odd, [0, 1, 2, 3], workers))


def test_a_thread_works_one_ahead_in_order_and_its_error_comes_in_its_turn():
    asked, seen = [], []

    def make(number):
        asked.append(number)
        return odd(number)

    with pytest.raises(ValueError, match="^2 is odd enough$"):
        for number in one_ahead(make, range(5)):
            seen.append(number)
    assert seen == [0, 1] and asked[:3] == [0, 1, 2] and max(asked) <= 3
    assert list(one_ahead(odd, [])) == [] and list(one_ahead(odd, [7])) == [7]


def odd(number: int) -> int:
    if number == 2:
        raise ValueError("2 is odd enough")
    return number
