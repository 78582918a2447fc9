"""VIDIM's published layout of DAVIS-7 and UCF101-7: short mp4 films of inputs, truth and five methods.

<id>_input.mp4 holds the first and the last frame, <id>_gt.mp4 the frames between them, <id>_rife.mp4 and its
like the same frames by a method (Jain et al., "Video Interpolation with Diffusion Models", 2024).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .clips import ClipSet, Read
from .films import read_film

PUBLISHED = {"rife": "RIFE", "film": "FILM", "ldmvfi": "LDMVFI", "amt": "AMT", "vidm": "VIDIM"}


def is_pairs(root: Path) -> bool:
    """Whether inputs and truths lie there."""
    return any(root.glob("*_input.mp4")) and any(root.glob("*_gt.mp4"))


def read_pairs(root: Path) -> ClipSet:
    """All clips with the films of the methods that are there. Raises ValueError for an incomplete pair."""
    ids = {path.name.removesuffix("_gt.mp4") for path in root.glob("*_gt.mp4")}
    if lonely := sorted(ids ^ {path.name.removesuffix("_input.mp4") for path in root.glob("*_input.mp4")}):
        raise ValueError(
            f"{root} has only one of {lonely[0]}_input.mp4 and {lonely[0]}_gt.mp4; add the other"
        )
    names = tuple(sorted(ids, key=lambda name: (len(name), name)))  # 2 before 10

    def film(kind: str) -> Read:
        return lambda name: read_film(root / f"{name}_{kind}.mp4")

    def truth(name: str) -> np.ndarray:
        given = film("input")(name)
        if len(given) != 2:
            raise ValueError(f"{root / name}_input.mp4 holds {len(given)} frames; two are wanted")
        return np.concatenate([given[:1], film("gt")(name), given[1:]])

    films = {
        f"{label} (published)": film(kind)
        for kind, label in PUBLISHED.items()
        if any(root.glob(f"*_{kind}.mp4"))
    }
    return ClipSet(
        root.resolve().name,
        "pairs with the truth and published films, mp4",
        names,
        truth,
        films,
        notes=("All frames went through lossy mp4 files before they were scored, the truth as well.",),
    )
