"""The tiny SVD and its adapters: trained miniatures of the real files, with the configurations that made
them.
"""

from __future__ import annotations

from pathlib import Path

ROOM = Path(__file__).parent
TINY = ROOM / "tiny_svd.safetensors"
ADAPTERS = {name: ROOM / f"tiny_{name}.safetensors" for name in ("paper", "fast")}
