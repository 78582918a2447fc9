"""A pool of clips, encoded once by the frozen VAE and kept beside the run.

Legend: n clips of the pool, t frames, h w latent.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..files import write_safetensors
from ..svd.load import SVD
from ..svd.pictures import encode
from .batch import Batch
from .clips import ClipSource
from .run_state import digest


class LatentPool:
    """Latents [n, t, 4, h, w] (unscaled, float16) and each clip's first and last picture (uint8)."""

    def __init__(self, latents: Tensor, ends: Tensor, fingerprint: str = "") -> None:
        self.latents, self.ends, self.fingerprint = latents, ends, fingerprint

    def draw(self, batch: int, g: torch.Generator, device: torch.device) -> Batch:
        """The clips of one step, ends and all, half of them backwards; ``shown`` is without noise.

        Every frame was encoded by itself, so a clip backwards is its latents backwards.
        """
        chosen = torch.randint(len(self.latents), (batch,), generator=g)
        backwards = torch.rand(batch, generator=g) < 0.5
        latents, ends = self.latents[chosen], self.ends[chosen]
        latents[backwards], ends[backwards] = latents[backwards].flip(1), ends[backwards].flip(1)
        latents = latents.to(device).float()
        return Batch(latents, latents[:, [0, -1]], ends=ends.to(device).float() / 127.5 - 1)


@torch.no_grad()
def latent_pool(svd: SVD, clips: ClipSource, count: int, frames: int, seed: int, path: Path) -> LatentPool:
    """The pool of ``count`` clips at ``path``, encoded now unless it is there with the same settings.

    Raises ValueError for a pool of other settings, rather than train on stale latents.
    """
    fingerprint = repr((count, frames, seed, clips.fingerprint, digest(svd.vae)))
    if path.exists():
        try:
            with safe_open(path, "pt") as file:
                if (file.metadata() or {}).get("fingerprint") != fingerprint:
                    raise ValueError(f"{path} was encoded with other settings; move it away to encode anew")
                return LatentPool(file.get_tensor("latents"), file.get_tensor("ends"), fingerprint)
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged ({error}); move it away to encode anew") from error
    latents, ends = [], []
    for i in range(0, count, 8):
        clip = clips.draw(seed + 7919, i, min(8, count - i), frames)
        encoded = encode(svd, clip.flatten(0, 1)).unflatten(0, clip.shape[:2])
        latents.append(encoded.cpu().half())
        ends.append(((clip[:, [0, -1]] + 1) * 127.5).round().byte())
        if i % 800 == 0:
            print(f"encoded {i} of {count} clips", flush=True)
    pool = LatentPool(torch.cat(latents), torch.cat(ends), fingerprint)
    write_safetensors(path, {"latents": pool.latents, "ends": pool.ends}, {"fingerprint": fingerprint})
    return pool
