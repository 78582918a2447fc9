"""Where weights come in: the checkpoint with its adapter, an adapter alone, an adapter onto a model."""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..vfi_core.adapter import Adapter, Options
from ..vfi_core.tiny import ADAPTERS, TINY
from ..vfi_core.weights import Weights, are_weights, files_behind, load_weights
from .host.apply import apply_adapter
from .host.checkpoint import load_checkpoint
from .schema import AdapterType, advanced, percent_inputs, schema, strength_input

FOLDER = "svd_vfi"  # of adapters, among the host's model folders
FOLDERS = (FOLDER, "diffusion_models")  # other packs keep Framer's U-Net in the second
TINY_NAME = "tiny SVD (bundled miniature)"
BUNDLED = {f"{name} (bundled, for tiny SVD)": path for name, path in ADAPTERS.items()}
NONE = "none"


def register_folder() -> None:
    """Adapters live in models/svd_vfi, or wherever extra_model_paths says."""
    folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir) / FOLDER))
    paths, _ = folder_paths.folder_names_and_paths[FOLDER]
    # A new entry, and one from extra_model_paths.yaml, lists every file: it has no extensions of its own.
    folder_paths.folder_names_and_paths[FOLDER] = (paths, {".safetensors"})


def checkpoints() -> list[str]:
    return [TINY_NAME] + folder_paths.get_filename_list("checkpoints")


def adapters() -> list[str]:
    """Names of adapters that are there; other files in the folders are not offered."""
    found = dict.fromkeys(name for folder in FOLDERS for name in folder_paths.get_filename_list(folder))
    return [NONE, *BUNDLED, *(name for name in found if is_adapter(found_path(name)))]


def is_adapter(path: Path | None) -> bool:
    if path is None or path.suffix.lower() != ".safetensors":
        return False
    return _are_weights(path, changed(path))


@lru_cache(maxsize=1024)
def _are_weights(path: Path, _changed: str) -> bool:
    return are_weights(path)


def checkpoint_path(name: str) -> Path:
    return TINY if name == TINY_NAME else Path(folder_paths.get_full_path_or_raise("checkpoints", name))


def adapter_path(name: str) -> Path:
    path = BUNDLED.get(name) or found_path(name)
    return path or Path(folder_paths.get_full_path_or_raise(FOLDER, name))


def found_path(name: str) -> Path | None:
    """Where it is, if the host's list is still true; of two files of one name the one among the adapters."""
    found = (folder_paths.get_full_path(folder, name) for folder in FOLDERS)
    return next((Path(path) for path in found if path), None)


def adapter_files(name: str) -> list[Path]:
    """What an adapter is read from."""
    return [] if name == NONE else files_behind(adapter_path(name))


def open_adapter(name: str) -> Weights:
    """The adapter, or for "none" one that adds nothing."""
    if name == NONE:
        return Adapter(Options(), {}, 0, {}, NONE)
    weights = load_weights(adapter_path(name))
    if weights.notice:
        logging.info("SVD VFI: %s", weights.notice)
    return weights


class LoadCheckpoint(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="SVDVFILoadCheckpoint",
            display_name="SVD VFI Load Checkpoint",
            description="Loads Stable Video Diffusion and the adapter that teaches it in-betweening.",
            inputs=[
                io.Combo.Input(
                    "ckpt_name",
                    options=checkpoints(),
                    tooltip="svd or svd_xt from models/checkpoints, or the bundled miniature.",
                ),
                io.Combo.Input(
                    "adapter_name",
                    options=adapters(),
                    tooltip="The trained adapter from models/svd_vfi, or a bundled one for the bundled "
                    "miniature; Framer's U-Net counts as one. With none, SVD alone holds the keyframes.",
                ),
            ],
            outputs=[
                io.Model.Output(),
                io.ClipVision.Output(),
                io.Vae.Output(),
                AdapterType.Output(display_name="adapter"),
            ],
        )

    @classmethod
    def execute(cls, ckpt_name: str, adapter_name: str) -> io.NodeOutput:
        path = checkpoint_path(ckpt_name)
        adapter = open_adapter(adapter_name)  # first: it is the quicker one to refuse
        return io.NodeOutput(*load_checkpoint(path), adapter)

    @classmethod
    def fingerprint_inputs(cls, ckpt_name: str, adapter_name: str):
        return [changed(checkpoint_path(ckpt_name))] + [changed(file) for file in adapter_files(adapter_name)]


class LoadAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="SVDVFILoadAdapter",
            display_name="SVD VFI Load Adapter",
            description="Loads an adapter for in-betweening, for a checkpoint loaded elsewhere.",
            inputs=[
                io.Combo.Input(
                    "adapter_name",
                    options=adapters(),
                    tooltip="A trained adapter from models/svd_vfi, or a bundled one for the miniature; "
                    "Framer's U-Net counts as one, also from models/diffusion_models.",
                ),
            ],
            outputs=[AdapterType.Output(display_name="adapter")],
        )

    @classmethod
    def execute(cls, adapter_name: str) -> io.NodeOutput:
        return io.NodeOutput(open_adapter(adapter_name))

    @classmethod
    def fingerprint_inputs(cls, adapter_name: str):
        return [changed(file) for file in adapter_files(adapter_name)]


class ApplyAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="SVDVFIApplyAdapter",
            display_name="SVD VFI Apply Adapter",
            description="Puts keyframe attention on a clone of the model; hands out the condition encoder.",
            inputs=[
                io.Model.Input(
                    "model", tooltip="Stable Video Diffusion; LoRAs before or after this node are fine."
                ),
                AdapterType.Input("adapter", tooltip="From one of this pack's loaders."),
                advanced(strength_input("attention_strength", "every frame looks at the first and last")),
                *percent_inputs("keyframe attention"),
            ],
            outputs=[io.Model.Output(), io.ControlNet.Output()],
        )

    @classmethod
    def execute(
        cls, model, adapter: Weights, attention_strength: float, start_percent: float, end_percent: float
    ) -> io.NodeOutput:
        return io.NodeOutput(*apply_adapter(model, adapter, attention_strength, start_percent, end_percent))


def changed(path: Path) -> str:
    """Path, size and time of change: another file under the same name is loaded anew."""
    return f"{path}:{path.stat().st_size}:{path.stat().st_mtime_ns}" if path.is_file() else f"{path}: gone"
