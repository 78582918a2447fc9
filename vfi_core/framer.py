"""Framer's weights (Wang et al., ICLR 2025): SVD's U-Net trained to go from one keyframe to another.

A whole U-Net in diffusers' names, `conv_in` with a ninth input channel, and `mask_token` [1, 1, 4, 1, 1].
Beside the noise it is shown the keyframes' latents with the token on the frames between, a mask (1 where a
frame is missing), and the image embeddings of both keyframes as two tokens. Its ControlNet, which steers
points along trajectories, is another file and not read here.

Legend: k keyframes, t frames, h w latent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from .files import read_safetensors, weight_files
from .keyframes import Keyframes
from .kinds import is_framer, kind

TOKEN, CONV_IN = "mask_token", "conv_in.weight"
BASE_CHANNELS = 8  # of SVD's conv_in: the noisy latents, the concatenated ones

# As its published demonstration runs it, guided along SVD's own ramp. What it was trained under is not told.
CONDITIONS: dict[str, Any] = {
    "frames": 14,
    "size": [320, 512],
    "fps": 7,
    "motion_bucket_id": 100,
    "augmentation": 0.02,
    "guidance": [1.0, 3.0],
}


@dataclass(frozen=True)
class Framer:
    """Framer's U-Net, apart from any base.

    tensors   of the U-Net, and `mask_token`
    training  what frames, size, fps ... fall back to
    """

    notice: ClassVar[str] = (
        "Framer's weights (Wang et al., ICLR 2025, arXiv 2410.18978, huggingface.co/wwen1997/framer_512x320) "
        "are free for academic use under the 2-clause BSD licence; for commercial use ask their authors"
    )

    tensors: Mapping[str, Tensor]
    training: Mapping[str, Any] = field(default_factory=lambda: dict(CONDITIONS))
    name: str = "Framer"

    def check(self, base: Mapping[str, Sequence[int]]) -> None:
        """Refuse a base U-Net (diffusers' parameter names -> shapes) of other dimensions.

        Raises ValueError naming the first tensor that is missing, left over or of another shape.
        """
        wanted = {name: tuple(shape) for name, shape in base.items()}
        out, _, *kernel = wanted[CONV_IN]
        wanted |= {CONV_IN: (out, BASE_CHANNELS + 1, *kernel), TOKEN: (1, 1, 4, 1, 1)}
        for key, shape in wanted.items():
            if key not in self.tensors:
                raise ValueError(f"{self.name} lacks {key}; it is damaged or was made for another base model")
            if tuple(self.tensors[key].shape) != shape:
                raise ValueError(
                    f"{self.name} was made for another base model: {key} is {list(self.tensors[key].shape)}, "
                    f"beside this base it must be {list(shape)}; load svd or svd_xt"
                )
        if surplus := sorted(set(self.tensors) - set(wanted)):
            raise ValueError(f"{self.name} holds {surplus[0]}, which has no place in this base model")

    def changes(self, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights that differ from the base's once they are of its dtype; shapes are the base's.

        Most do not: temporal attention and `conv_in` were trained, on SVD-XT.
        """
        own = {name: self.tensors[name] for name in base}
        own[CONV_IN] = own[CONV_IN][:, :BASE_CHANNELS]
        return {name: new for name, new in own.items() if not new.to(base[name]).equal(base[name])}

    @property
    def mask_weight(self) -> Tensor:
        """[C0, 1, 3, 3]: `conv_in`'s columns for the mask."""
        return self.tensors[CONV_IN][:, BASE_CHANNELS:]

    def concat_latent(self, latents: Tensor, positions: tuple[int, ...], length: int) -> Tensor:
        """SVD's concatenated condition, [t, 4, h, w]: keyframes on their frames, the token on all others.

        latents  [k, 4, h, w]  VAE `mode()` of the noise-augmented keyframes, unscaled; zeros for the
                 unconditional branch, which keeps token and mask
        """
        shown = self.tensors[TOKEN][0].to(latents).expand(length, -1, *latents.shape[2:]).clone()
        shown[list(positions)] = latents
        return shown


def missing(keyframes: Keyframes) -> Tensor:
    """The mask Framer reads, [t, 1, h, w]: 1 on frames that are not given, the opposite of ours."""
    return 1 - keyframes.mask


def load_framer(path: Path) -> Framer:
    """Read Framer's U-Net, a file or a diffusers folder; `Framer.check` holds its shapes to a base's.

    Raises ValueError in one sentence for weights of another kind, or damaged ones.
    """
    tensors: dict[str, Tensor] = {}
    for file in weight_files(path):
        tensors |= read_safetensors(file)[0]
    if not is_framer(tensors):
        raise ValueError(f"{path} is {kind(tensors, {})}, not Framer's U-Net")
    return Framer(tensors, name=path.name)
