"""What a run leaves to look at, and that looking changes nothing."""

import pytest
import torch
from safetensors.torch import load_file

from tests.training.toy_run import TRAINING, own_toy, train
from vfi_core.media import read_picture, read_video, write_film, write_picture
from vfi_core.training.card import write_card
from vfi_core.training.config import build
from vfi_core.training.journal import Row
from vfi_core.training.rows import read_rows
from vfi_core.training.settings import TrainConfig, ValidationConfig
from vfi_core.training.validation import Films


@pytest.fixture
def validation(tmp_path):
    g = torch.Generator().manual_seed(0)
    film = (torch.rand(5, 64, 64, 3, generator=g) * 255).byte()
    write_film(film, tmp_path / "film.mp4", 7)
    write_picture(film[0], tmp_path / "a.png")
    write_picture(film[4], tmp_path / "b.png")
    pair = (str(tmp_path / "a.png"), str(tmp_path / "b.png"))
    return ValidationConfig(every=2, keyframes=(pair,), films=(str(tmp_path / "film.mp4"),), steps=1)


def test_films_plots_and_scalars_lie_there_and_change_no_bit_of_the_result(tmp_path, validation):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    seen, unseen = tmp_path / "seen", tmp_path / "unseen"
    config = TrainConfig(steps=2, batch=1, save_every=1, tensorboard=True)
    looked_at = train(seen, config, validation=validation)
    plain = train(unseen, TrainConfig(steps=2, batch=1, save_every=1))
    assert all(torch.equal(looked_at.tensors[k], plain.tensors[k]) for k in plain.tensors)
    one, other = (load_file(folder / "run.safetensors") for folder in (seen, unseen))
    assert all(torch.equal(one[k], other[k]) for k in other)

    names = sorted(p.name for p in (seen / "validation").iterdir())
    films = ["000002-01-a.mp4", "000002-01-a.png", "000002-02-film.mp4", "000002-02-film.png"]
    assert names == [*films, "psnr.csv"]
    assert read_video(seen / "validation" / films[0]).shape == (5, 64, 64, 3)
    (figure,) = read_rows(seen / "validation" / "psnr.csv", 10)
    assert figure[:2] == ["2", "02-film"] and 0 < float(figure[2]) < 60
    rows = [Row.of(texts) for texts in read_rows(seen / "losses.csv", 10)]
    assert [row.step for row in rows] == [1, 2] and rows[0].lr < rows[1].lr
    assert read_picture(seen / "loss.png").shape == (450, 800, 3)

    board = events.EventAccumulator(str(seen / "tensorboard"))
    board.Reload()
    assert [s.step for s in board.Scalars("loss")] == [1, 2]
    assert board.Scalars("loss")[1].value == pytest.approx(rows[1].loss)
    assert {"lr", "grad_norm", "seconds", "psnr/02-film"} <= set(board.Tags()["scalars"])
    assert set(board.Tags()["images"]) == {"01-a", "02-film"}

    looked_at.training["base"] = "svd_xt.safetensors"
    card = write_card(seen, seen / "my.safetensors", looked_at, config, "inherits").read_text()
    assert "--model svd_xt.safetensors --adapter my.safetensors" in card and "models/svd_vfi" in card
    assert "2 steps" in card and f"02-film: {float(figure[2]):.2f} dB" in card
    assert "community licence" in card and "| kf_pool | 2 |" in card and "| precision | float32 |" in card


def test_a_validation_that_cannot_be_drawn_is_refused_before_anything_is_trained(tmp_path, validation):
    write_film(torch.zeros(3, 64, 64, 3).byte(), tmp_path / "short.mp4", 7)
    for settings, message in (
        ({"films": (str(tmp_path / "short.mp4"),)}, "has 3 frames; a validation film needs 5"),
        ({"keyframes": (("gone.png", "gone.png"),)}, "gone.png"),
    ):
        with pytest.raises(ValueError, match=message):
            Films(own_toy(), None, ValidationConfig(every=1, **settings), TRAINING, tmp_path)
    with pytest.raises(ValueError, match="nothing is named to validate on"):
        ValidationConfig(every=1)
    with pytest.raises(ValueError, match="give pairs"):
        ValidationConfig(every=1, keyframes=(("a.png",),))


def test_rows_beyond_the_saved_step_are_dropped(tmp_path):
    config = TrainConfig(steps=2, batch=1, save_every=1)
    train(tmp_path, config)
    with (tmp_path / "losses.csv").open("a") as file:
        file.write("3,9.0,0.1,1.0,1.0\n")
    assert train(tmp_path, config).tensors
    assert [row[0] for row in read_rows(tmp_path / "losses.csv", 10)] == ["1", "2"]


def test_pairs_of_keyframes_are_read_from_a_configuration():
    read = build(ValidationConfig, {"every": 5, "keyframes": [["a.png", "b.png"]]}, "x.toml")
    assert read.keyframes == (("a.png", "b.png"),)
    for wrong in (["a.png"], [["a.png", 1]], "a.png"):
        with pytest.raises(ValueError, match="x.toml: setting 'keyframes' is .* expected a list of"):
            build(ValidationConfig, {"every": 5, "keyframes": wrong}, "x.toml")
