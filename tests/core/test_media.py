"""Pictures and films: what is read is what was drawn, what is written is whole or absent."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from vfi_core import media

av = pytest.importorskip("av")
resource = pytest.importorskip("resource")  # absent on Windows


def film(n: int = 4, height: int = 16, width: int = 24) -> Tensor:
    """A square that moves right over a flat ground, [n, H, W, 3] uint8."""
    frames = torch.full((n, height, width, 3), 60, dtype=torch.uint8)
    frames[..., 2] = 180
    for i in range(n):
        frames[i, 4:12, 3 * i : 3 * i + 8] = torch.tensor([230, 120, 20], dtype=torch.uint8)
    return frames


def save(frame: Tensor, path: Path) -> Path:
    Image.fromarray(frame.numpy()).save(path)
    return path


def test_a_png_folder_gives_every_frame_back_bit_for_bit(tmp_path: Path) -> None:
    frames = torch.randint(
        0, 256, (12, 9, 7, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    media.write_film(frames, tmp_path / "out", 8)
    assert sorted(p.name for p in (tmp_path / "out").iterdir())[-1] == "00011.png"
    assert torch.equal(torch.stack(media.read_keyframes([tmp_path / "out"])), frames)


@pytest.mark.parametrize("name", ["film.mp4", "film.gif", "film.webp", "a colon: in.the name.mp4"])
@pytest.mark.parametrize("fps", [7.5, 24])
def test_a_film_reads_back_with_its_frames_its_colours_and_its_rate(
    tmp_path: Path, name: str, fps: float
) -> None:
    frames = film(8)
    media.write_film(frames, tmp_path / name, fps)
    back = torch.stack(media.read_keyframes([tmp_path / name]))
    assert back.shape == frames.shape
    off = back.float() - frames.float()
    assert off[:, 5:11].mean(dim=(0, 1, 2)).abs().max() < 6  # 4 measured in webp, chroma subsampling's
    assert off[:, :2].abs().max() < 12  # 9 measured in webp, 8 in mp4
    rate = media.read_fps(tmp_path / name)
    assert rate is not None and abs(rate / fps - 1) < 0.02  # gif counts in centiseconds
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_an_odd_size_gains_one_row_and_column_in_mp4_and_none_in_webp(tmp_path: Path) -> None:
    frames = film(3, 15, 23)
    media.write_film(frames, tmp_path / "f.mp4", 8)
    media.write_film(frames, tmp_path / "f.webp", 8)
    assert media.read_video(tmp_path / "f.mp4").shape == (3, 16, 24, 3)
    assert media.read_keyframes([tmp_path / "f.webp"])[0].shape == (15, 23, 3)


def test_frames_may_come_one_by_one(tmp_path: Path) -> None:
    media.write_film(iter(film()), tmp_path / "f.mp4", 8)
    assert len(media.read_video(tmp_path / "f.mp4")) == 4


def test_an_existing_film_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "f.gif").write_text("old")
    media.write_film(film(), tmp_path / "f.gif", 8)
    assert len(media.read_keyframes([tmp_path / "f.gif"])) == 4


def test_a_folder_is_read_in_natural_order_and_other_files_are_passed_over(tmp_path: Path) -> None:
    frames = film(11)
    for i, frame in enumerate(frames):
        save(frame, tmp_path / f"frame{i}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    (tmp_path / ".hidden.png").write_text("not a frame")
    assert torch.equal(torch.stack(media.read_keyframes([tmp_path])), frames)


def test_exif_rotation_is_honoured(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it a quarter clockwise
    Image.fromarray(film()[0].numpy()).save(tmp_path / "a.png", exif=exif)
    assert torch.equal(media.read_picture(tmp_path / "a.png"), film()[0].rot90(-1))


def test_a_videos_rotation_is_honoured(tmp_path: Path) -> None:
    media.write_film(film(), tmp_path / "f.mp4", 8)
    data = bytearray((tmp_path / "f.mp4").read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40  # version and flags 4, times and ids 20, reserved to volume 16
    one = 1 << 16
    assert struct.unpack(">9i", data[matrix : matrix + 36]) == (one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    plain = media.read_video(tmp_path / "f.mp4")
    data[matrix : matrix + 36] = struct.pack(
        ">9i", 0, one, 0, -one, 0, 0, 0, 0, 1 << 30
    )  # a quarter clockwise
    (tmp_path / "f.mp4").write_bytes(data)
    assert torch.equal(media.read_video(tmp_path / "f.mp4"), plain.rot90(-1, (1, 2)))


def test_transparency_lies_over_black_and_opaque_pixels_keep_their_values(tmp_path: Path) -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (5, 6, 4), dtype=np.uint8)
    rgba[0, :, 3], rgba[1, :, 3] = 0, 255
    Image.fromarray(rgba).save(tmp_path / "a.png")
    back = media.read_picture(tmp_path / "a.png")
    assert back[0].max() == 0
    assert torch.equal(back[1], torch.from_numpy(rgba[1, :, :3]))


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "CMYK"])
def test_other_colour_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    grey = Image.fromarray(np.array([[0, 255], [255, 0]], dtype=np.uint8)).convert("RGB").convert(mode)
    grey.save(tmp_path / "a.tif")
    expected = torch.tensor([[0, 255], [255, 0]], dtype=torch.uint8)[..., None].expand(2, 2, 3)
    assert torch.equal(media.read_picture(tmp_path / "a.tif"), expected)


def test_sixteen_bit_grey_keeps_its_high_byte(tmp_path: Path) -> None:
    values = np.array([[0, 257, 65535], [128 * 257, 255, 256]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert media.read_picture(tmp_path / "a.png")[..., 0].tolist() == [[0, 1, 255], [128, 0, 1]]


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp", ""])
def test_a_full_disk_is_told_in_one_sentence_and_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    noise = torch.randint(0, 256, (4, 128, 128, 3), dtype=torch.uint8)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        with pytest.raises(ValueError, match="cannot be written .*; nothing was left"):
            media.write_film(noise, tmp_path / f"film{suffix}", 8)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp", ""])
def test_an_interrupted_writer_leaves_nothing_and_keeps_the_old_film(tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"film{suffix}"
    if suffix:
        out.write_text("old")

    def frames():
        yield film()[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        media.write_film(frames(), out, 8)
    assert [p.read_text() for p in tmp_path.iterdir()] == (["old"] if suffix else [])


def test_a_picture_comes_back_as_it_was_written(tmp_path: Path) -> None:
    media.write_picture(film(1)[0], tmp_path / "picture.png")
    assert torch.equal(media.read_picture(tmp_path / "picture.png"), film(1)[0])


@pytest.mark.parametrize(
    ("out", "fps", "message"),
    [
        ("film.avi", 8, "unknown suffix '.avi'"),
        ("missing/film.mp4", 8, "missing does not exist"),
        ("full", 8, "already holds files"),
        ("folder.mp4", 8, "is a folder"),
        ("plain", 8, "is a file"),
        ("film.mp4", 0, "0 frames per second"),
        ("film.mp4", float("nan"), "nan frames per second"),
        ("film.gif", 60, "at most 50"),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_the_work(
    tmp_path: Path, out: str, fps: float, message: str
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "plain").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=message):
        media.check_output(tmp_path / out, fps)
    assert sorted(tmp_path.rglob("*")) == before


def _inputs(root: Path) -> None:
    save(film()[0], root / "a.png")
    save(film(1, 8, 8)[0], root / "small.png")
    (root / "text.png").write_text("hello")
    (root / "text.txt").write_text("hello " * 99)
    (root / "text.mp4").write_text("hello " * 99)
    (root / "empty.png").write_bytes(b"")
    noise = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8)
    save(noise, root / "cut.png").write_bytes((root / "cut.png").read_bytes()[:4000])
    save(noise, root / "cut.jpg").write_bytes((root / "cut.jpg").read_bytes()[:900])
    Image.fromarray(np.zeros((4, 4), dtype=np.float32)).save(root / "float.tif")
    media.write_film(film(), root / "v.mp4", 8)
    (root / "cut.mp4").write_bytes((root / "v.mp4").read_bytes()[:600])
    with av.open(str(root / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        stream.layout = "mono"
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), dtype=np.int16), layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    (root / "void").mkdir()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.png", "small.png"], "small.png is 8x8 but .*a.png is 24x16"),
        (["a.png"], "1 keyframe given by .*a.png"),
        (["a.png", "gone.png"], "gone.png does not exist"),
        (["a.png", "text.png"], "text.png is not a picture"),
        (["a.png", "cut.png"], "cut.png is damaged"),
        (["a.png", "cut.jpg"], "cut.jpg is damaged"),
        (["a.png", "empty.png"], "empty.png is empty"),
        (["a.png", "float.tif"], "floating-point"),
        (["a.png", "v.mp4"], "v.mp4 is a video; give it alone"),
        (["a.png", "void"], "void is a folder; give it alone"),
        (["void"], "void holds no pictures"),
        (["text.mp4"], "text.mp4 cannot be read as a video"),
        (["text.txt"], "text.txt (holds no video stream|cannot be read as a video)"),
        (["cut.mp4"], "cut.mp4 cannot be read as a video"),
        (["sound.wav"], "sound.wav holds no video stream"),
    ],
)
def test_input_that_is_no_keyframes_is_refused_by_name(
    tmp_path: Path, names: list[str], message: str
) -> None:
    _inputs(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        media.read_keyframes([tmp_path / name for name in names])
    assert "\n" not in str(caught.value)
