"""Where a ComfyUI is, and what the tests give it: this pack as it is installed, a random miniature, and
adapters with no tensor at rest.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from tests.svd.toys import toy_svd
from vfi_core.adapter import Adapter, Options, expected_shapes
from vfi_core.svd.adapted import head_dim_of, shapes_of
from vfi_core.svd.load import SVD

ROOT = Path(__file__).resolve().parents[1]
LAYERS = 2  # as SVD has: with one, a slip in counting blocks could pass
LORA = (
    "conv_in",
    "time_embedding.linear_1",
    "down_blocks.0.attentions.1.temporal_transformer_blocks.0.attn1.to_k",
    "mid_block.resnets.1.temporal_res_block.conv2",
)


def comfyui() -> Path | None:
    """A checkout: COMFYUI_PATH, else the one this pack stands in, else ~/comfy/ComfyUI."""
    if given := os.environ.get("COMFYUI_PATH"):
        candidates = [Path(given)]
    else:
        around = ROOT.parents[1] if ROOT.parent.name == "custom_nodes" else ROOT
        candidates = [around, Path.home() / "comfy" / "ComfyUI"]
    return next((path for path in candidates if (path / "comfy" / "model_base.py").is_file()), None)


def interpreter(comfy: Path) -> str:
    """The host's own: COMFYUI_PYTHON, its virtual environment's, else this one."""
    own = comfy / ".venv" / "bin" / "python"
    return os.environ.get("COMFYUI_PYTHON") or (str(own) if own.is_file() else sys.executable)


def unpack(folder: Path) -> Path:
    """The pack as an archive of `comfy node pack` unpacks: what git knows (or would), less .comfyignore.

    A source tree without git is taken whole, less .comfyignore and what begins with a dot.
    """

    def listed(*options: str) -> set[str]:
        command = ["git", "ls-files", "-z", "--cached", "--others", *options]
        told = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
        return set(told.split("\0")) - {""}

    try:
        names = listed("--exclude-standard") - listed("--ignored", "--exclude-from=.comfyignore")
    except (OSError, subprocess.CalledProcessError):
        left_out = tuple((ROOT / ".comfyignore").read_text().split("\n"))
        files = (path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*"))
        names = {name for name in files if not name.startswith((".", *filter(None, left_out)))}
    for name in names:
        if (ROOT / name).is_file():  # a file removed from the working tree is still in git's list
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    return folder


def toy() -> SVD:
    return toy_svd(layers=LAYERS)


def random_adapter(options: Options) -> Adapter:
    """An adapter whose every tensor is alive; a full trunk is the base's, moved a little."""
    g = torch.Generator().manual_seed(11)
    base, shapes = toy().unet.state_dict(), shapes_of(toy().unet)
    low_rank = LORA if options.encoder_weights == "lora" else ()
    lora = {f"encoder.lora.{path}.lora_A.weight": None for path in low_rank}
    tensors = {}
    for key, shape in expected_shapes(options, shapes, lora).items():
        noise = torch.randn(shape, generator=g)
        if len(shape) > 1:
            noise = noise / noise[0].numel() ** 0.5
        else:
            noise = (1 if key.endswith("norm.weight") else 0) + 0.1 * noise
        trunk = base.get(key.removeprefix("encoder.trunk."))
        tensors[key] = noise if trunk is None else trunk + 0.1 * noise
    return Adapter(options, tensors, head_dim_of(toy().unet))
