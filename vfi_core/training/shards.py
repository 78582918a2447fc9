"""A folder of numbered safetensors files, each whole or not there, and what they depend on beside them.

Killed at any moment, the work goes on with the files that are not there yet.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..files import replace_text, write_safetensors


class Shards:
    """The files of one folder, made under ``settings`` alone.

    Raises ValueError for a folder made under others, naming the first that differs.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        text = json.dumps(settings, indent=1)
        self.digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        path = folder / "settings.json"
        if path.exists():
            _compare(folder, _read(path), json.loads(text))
            return
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(path, text, shared=True)  # several runs may share a cache

    def path(self, index: int) -> Path:
        return self.folder / f"{index:05}.safetensors"

    def missing(self, count: int) -> list[int]:
        """Which of the files 0..count - 1 are still to be made."""
        return [i for i in range(count) if not self.path(i).exists()]

    def write(self, index: int, tensors: Mapping[str, Tensor], note: str = "") -> None:
        """One file, flushed to disk before it has its name; ``note`` is any text to go with it."""
        # One entry: several come in any order, and equal files would not be equal in their bits.
        described = json.dumps({"settings": self.digest, "note": note})
        write_safetensors(self.path(index), tensors, {"shard": described}, shared=True)

    def open(self, index: int) -> tuple[Any, str]:
        """(a file whose tensors are read where they lie on disk, its note). Raises ValueError for another."""
        path = self.path(index)
        try:
            file = safe_open(path, "pt")
            described = json.loads((file.metadata() or {}).get("shard", "{}"))
        except (SafetensorError, OSError, ValueError) as error:
            raise ValueError(f"{path} is damaged ({error}); delete it, and it will be made anew") from error
        if described.get("settings") != self.digest:
            raise ValueError(f"{path} was made with other settings; delete it, and it will be made anew")
        return file, described["note"]


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); move {path.parent} away to make it anew") from error


def _compare(folder: Path, kept: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    for name in dict.fromkeys([*asked, *kept]):
        if name not in kept or name not in asked or kept[name] != asked[name]:
            raise ValueError(
                f"{folder} was made with {name} = {kept.get(name)} and is asked for with {name} = "
                f"{asked.get(name)}; move it away to make it anew, or set it back"
            )
