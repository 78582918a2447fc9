"""Evaluation sets: what is read, how it is cut, and that it is the same every time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("cv2", reason="needs the extra 'eval'")

import numpy as np
import torch
from PIL import Image

from vfi_core.evaluation import clips as module
from vfi_core.evaluation.clips import Clip, apart, large_motion, read_clips, read_held_out, square


def write_folder(root: Path, frames: int = 5) -> np.ndarray:
    film = np.random.default_rng(0).integers(0, 256, (frames, 24, 32, 3), dtype=np.uint8)
    (root / "cat").mkdir(parents=True)
    for i, frame in enumerate(film):
        Image.fromarray(frame).save(root / "cat" / f"{i:03d}.png")
    (root / "manifest.json").write_text(json.dumps({"clips": [{"clip": "cat"}]}))
    return film


def write_training_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    film = torch.arange(60, dtype=torch.uint8)[:, None, None, None].expand(60, 16, 20, 3).contiguous()
    windows = [
        {"video": "a.mp4", "start": s, "stride": d, "frames": 7} for s in range(0, 40, 3) for d in (1, 2, 3)
    ]
    root.mkdir(exist_ok=True)
    (root / "windows.json").write_text(json.dumps({"windows": windows}))
    monkeypatch.setattr(module, "read_video", lambda path: film)
    return film


def test_frames_come_back_as_they_were_written(tmp_path: Path):
    film = write_folder(tmp_path)
    (clip,) = read_clips(tmp_path, 4)
    assert clip.name == "cat"
    assert torch.equal((clip.frames * 255).round().byte(), torch.from_numpy(film[:4]))


def test_frames_are_cut_to_the_centre_square_and_averaged():
    picture = np.zeros((8, 12, 3), np.uint8)
    picture[:, 2:10] = np.arange(8, dtype=np.uint8)[None, :, None] * 10
    small = square(picture, 4)
    assert small[0, :, 0].tolist() == [5, 25, 45, 65]


def test_a_clip_that_is_too_short_is_refused(tmp_path: Path):
    write_folder(tmp_path)
    with pytest.raises(ValueError, match="holds 5 PNG frames and 7 were asked for"):
        read_clips(tmp_path, 7)


def test_a_folder_of_something_else_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="no manifest.json"):
        read_clips(tmp_path, 7)
    (tmp_path / "windows.json").write_text("not json")
    with pytest.raises(ValueError, match="not a list of windows"):
        read_held_out(tmp_path, ["a.mp4"], 7)


def test_held_out_windows_share_no_frame_and_are_the_same_every_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_training_folder(tmp_path, monkeypatch)
    first = read_held_out(tmp_path, ["a.mp4"], 7, 8)
    again = read_held_out(tmp_path, ["a.mp4"], 7, 8)
    assert [c.name for c in first] == [c.name for c in again]
    assert len(first) > 2
    shown = [
        int(v) for c in first for v in (c.frames[:, 0, 0, 0] * 255).round()
    ]  # a frame's value is its index
    assert len(shown) == len(set(shown))
    assert all(c.frames.shape == (7, 8, 8, 3) for c in first)


def test_windows_of_a_video_are_capped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_training_folder(tmp_path, monkeypatch)
    assert len(read_held_out(tmp_path, ["a.mp4"], 7, per_video=2)) == 2


def test_windows_do_not_depend_on_the_order_in_the_file():
    windows = [{"start": s, "stride": d} for s in range(0, 50, 2) for d in (1, 2)]
    assert apart(windows, 7, "a") == apart(windows[::-1], 7, "a")


def test_unknown_videos_and_a_missing_list_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_training_folder(tmp_path, monkeypatch)
    with pytest.raises(ValueError, match="no window of 7 frames in the video 'b.mp4'"):
        read_held_out(tmp_path, ["b.mp4"], 7)
    with pytest.raises(ValueError, match="--held-out"):
        read_held_out(tmp_path, [], 7)


def test_large_motion_is_the_half_above_the_median():
    noise = torch.rand((1, 3, 8, 24), generator=torch.Generator().manual_seed(0))
    wide = torch.nn.functional.interpolate(noise, (32, 96), mode="bicubic").clamp(0, 1)[0].permute(1, 2, 0)
    clips = [Clip(str(v), torch.stack([wide[:, :32], wide[:, v : v + 32]])) for v in (4, 0, 3, 1)]
    assert large_motion(clips) == [True, False, True, False]
    assert large_motion([]) == []
