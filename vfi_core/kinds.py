"""What a weight file is, from its first bytes and its tensors' names: a wrong one is called by its name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

UNET = "model.diffusion_model."
PARTS = {"U-Net": UNET, "VAE": "first_stage_model.", "image encoder": "conditioner.embedders.0.open_clip."}
PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
PICKLED = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")

# What names of tensors tell, most telling first.
KINDS: tuple[tuple[Callable[[str], bool], str], ...] = (
    (lambda k: "lora_" in k or "lora." in k or "lokr_" in k or "hada_" in k, "a LoRA"),
    (lambda k: k.startswith(("control_model.", "controlnet_")), "a ControlNet"),
    (lambda k: k.startswith("conditioner.embedders.1.model."), "an SDXL checkpoint"),
    (lambda k: k.startswith("cond_stage_model."), "a Stable Diffusion 1.x or 2.x checkpoint"),
    (lambda k: "joint_blocks." in k, "a Stable Diffusion 3 model"),
    (lambda k: "double_blocks." in k, "a Flux-like transformer"),
    (lambda k: "motion_modules." in k, "an AnimateDiff motion module"),
    (
        lambda k: "temporal_transformer_blocks." in k,
        "Stable Video Diffusion's U-Net alone, in diffusers' names",
    ),
    (lambda k: k.startswith(("down_blocks.", "mid_block.")), "an image U-Net alone, in diffusers' names"),
    (lambda k: k.startswith("vision_model."), "an image encoder alone"),
    (lambda k: k.startswith("decoder.") and "temporal" in k, "a temporal VAE alone, in diffusers' names"),
    (lambda k: k.startswith(("decoder.", "encoder.")), "a VAE alone"),
    (lambda k: k.startswith(UNET), "an image model's checkpoint"),
)


def is_svd(names: Collection[str]) -> bool:
    """Whether the tensors are those of a single-file checkpoint with SVD's temporal U-Net."""
    return any(name.startswith(UNET) and "time_stack." in name for name in names)


def is_framer(names: Collection[str]) -> bool:
    """Whether the tensors are those of Framer's U-Net: SVD's in diffusers' names, and a token of its own."""
    return {"mask_token", "conv_in.weight"} <= set(names) and any(
        "temporal_transformer_blocks." in n for n in names
    )


def kind(names: Collection[str], metadata: Mapping[str, str]) -> str:
    """What a file of these tensors is, to go behind "is": "an SDXL checkpoint", "of an unknown kind, ..."."""
    form = metadata.get("format", "")
    if form.startswith("svd-vfi-adapter/"):
        return f"an adapter for in-betweening ({form})"
    if form.startswith("svd-vfi-"):
        return f"a training file of this project ({form})"
    if is_svd(names):
        missing = [part for part, prefix in PARTS.items() if not any(k.startswith(prefix) for k in names)]
        if missing:
            return f"a Stable Video Diffusion checkpoint without its {' and '.join(missing)}"
        return "a Stable Video Diffusion checkpoint in one file (ComfyUI's layout)"
    if is_framer(names):
        return "Framer's U-Net, weights for in-betweening with Stable Video Diffusion, in diffusers' names"
    for tells, name in KINDS:
        if any(tells(key) for key in names):
            return name
    some = ", ".join(list(names)[:3])
    return f"of an unknown kind, with tensors such as {some}" if some else "without any tensors"


def refuse_other_formats(path: Path) -> None:
    """ValueError for a file that is no safetensors, whatever its name: a pickle, GGUF, a Git LFS pointer."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give one of its .safetensors files")
    if not path.exists():
        raise ValueError(f"{path} does not exist; give a .safetensors file")
    with path.open("rb") as file:
        start = file.read(8)
    if path.suffix.lower() in PICKLES or start.startswith(PICKLED):
        raise ValueError(
            f"{path.name} is a pickle, which may run code when opened; convert it to .safetensors"
        )
    if start == b"version ":
        raise ValueError(f"{path.name} is a Git LFS pointer, not the weights; fetch the file itself")
    if start.startswith(b"GGUF"):
        raise ValueError(f"{path.name} is a GGUF file; give a .safetensors file")
    if len(start) < 8:
        raise ValueError(f"{path.name} is {'empty' if not start else 'cut short'}; download it again")
