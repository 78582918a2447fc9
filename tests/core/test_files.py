import errno
import os
import stat

import pytest
import torch
from safetensors.torch import load_file

from vfi_core.files import write_safetensors


def test_a_file_is_written_whole_with_the_permissions_of_any_new_file(tmp_path):
    write_safetensors(tmp_path / "a.safetensors", {"w": torch.arange(3.0)}, {"k": "v"})
    (tmp_path / "plain").touch()
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.safetensors", "plain")}
    assert len(modes) == 1
    assert load_file(tmp_path / "a.safetensors")["w"].tolist() == [0, 1, 2]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, {"w": torch.zeros(1)}, {})

    def full(*_args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ValueError, match="cannot be written .*No space left.* free space"):
        write_safetensors(path, {"w": torch.ones(1)}, {})
    assert load_file(path)["w"].item() == 0
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match="folder .*nowhere does not exist"):
        write_safetensors(tmp_path / "nowhere" / "a.safetensors", {}, {})
