"""What ComfyUI computes for the parity tests; run by the host's own interpreter, never by pytest.

    python host_side.py <ComfyUI> <folder>

The folder holds ``svd.safetensors``, ``small.safetensors``, ``quiet.safetensors`` (miniatures), adapters,
``inputs.safetensors`` and ``job.json``; results go to ``outputs.safetensors``. A part that fails leaves its
traceback in ``errors.json``, so one failure hides no other.
"""

from __future__ import annotations

import copy
import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

Tensors = dict[str, Tensor]
ROOT = Path(__file__).parents[2]
CLIP = "conditioner.embedders.0.open_clip.model.visual."


def section(state: Tensors, prefix: str) -> Tensors:
    return {key.removeprefix(prefix): t for key, t in state.items() if key.startswith(prefix)}


def read(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """The weights and the dimensions of a single file."""
    with safe_open(path, framework="pt") as file:
        config = json.loads(file.metadata()["svd_vfi_config"])
    return load_file(path), config


def load_whole(module: torch.nn.Module, state: Tensors) -> None:
    """Nothing may be missing: host modules leave weights uninitialised, so it would be noise."""
    missing, unexpected = module.load_state_dict(state, strict=False)
    missing = [key for key in missing if "position_ids" not in key]
    if missing or unexpected:
        raise ValueError(f"missing {missing[:5]}, unexpected {unexpected[:5]}")


def build_model(state: Tensors, config: dict[str, Any]) -> Any:
    """`comfy.model_base.SVD_img2vid` of any dimensions: stock detection, but for the width of a head."""
    import comfy.model_base
    import comfy.model_detection
    import comfy.supported_models

    unet = config["unet"]
    widths, heads = unet["block_out_channels"], unet["num_attention_heads"]

    class Miniature(comfy.supported_models.SVD_img2vid):
        unet_extra_config = comfy.supported_models.SVD_img2vid.unet_extra_config | {
            "num_head_channels": widths[0] // heads[0]
        }
        sampling_settings = {"sigma_max": config["sigma_max"], "sigma_min": config["sigma_min"]}

    prefix = "model.diffusion_model."
    model_config = Miniature(comfy.model_detection.detect_unet_config(state, prefix))
    model_config.set_inference_dtype(torch.float32, None)
    model = comfy.model_base.SVD_img2vid(model_config)
    load_whole(model.diffusion_model, section(state, prefix))
    return model.eval()


def build_vae(state: Tensors, config: dict[str, Any]) -> Any:
    vae = new_vae(config["vae"])
    load_whole(vae, section(state, "first_stage_model."))
    return vae.eval()


def new_vae(config: dict[str, Any]) -> Any:
    """The temporal autoencoder as `comfy.sd.VAE` builds it, with widths of its own."""
    from comfy.ldm.models.autoencoder import AutoencodingEngine

    widths = config["block_out_channels"]
    encoder = {
        "double_z": True,
        "z_channels": 4,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": widths[0],
        "ch_mult": [width // widths[0] for width in widths],
        "num_res_blocks": config["layers_per_block"],
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    decoder = encoder | {"video_kernel_size": [3, 1, 1], "alpha": 0.0}
    return AutoencodingEngine(
        regularizer_config={"target": "comfy.ldm.models.autoencoder.DiagonalGaussianRegularizer"},
        encoder_config={"target": "comfy.ldm.modules.diffusionmodules.model.Encoder", "params": encoder},
        decoder_config={"target": "comfy.ldm.modules.temporal_ae.VideoDecoder", "params": decoder},
    )


def build_image_encoder(state: Tensors, config: dict[str, Any], folder: Path) -> Any:
    """`ClipVisionModel` from a JSON file: 0.3.64 takes no dict."""
    from comfy.clip_vision import ClipVisionModel, convert_to_transformers

    path = folder / "clip_vision.json"
    path.write_text(
        json.dumps(config["image_encoder"] | {"model_type": "clip_vision_model", "num_channels": 3})
    )
    encoder = ClipVisionModel(str(path))
    encoder.model.float()
    load_whole(
        encoder.model, convert_to_transformers({k: t for k, t in state.items() if k.startswith(CLIP)}, CLIP)
    )
    return encoder


def compute_unet(model: Any, inputs: Tensors, job: dict[str, Any]) -> Tensors:
    """D(x; sigma) of b clips: ids, scalings and U-Net are all the host's own."""
    x, sigma = inputs["unet.x"], inputs["unet.sigma"]  # [b, t, 4, h, w] scaled, [b]
    b, t = x.shape[:2]
    adm = model.encode_adm(
        fps=job["fps"], motion_bucket_id=job["motion_bucket_id"], augmentation_level=job["aug"]
    )
    denoised = model.apply_model(
        x.flatten(0, 1),
        sigma.repeat_interleave(t),
        c_concat=inputs["unet.concat"].flatten(0, 1),
        c_crossattn=inputs["unet.context"].repeat_interleave(t, dim=0),  # [b, 1, c] -> [(b t), 1, c]
        y=adm.repeat(b * t, 1),
        num_video_frames=t,
    )
    return {"denoised": denoised.unflatten(0, (b, t))}


class Trunk(torch.nn.Module):
    """ComfyUI's U-Net with its decoder deleted: the trunk of the condition encoder."""

    def __init__(self, unet: torch.nn.Module) -> None:
        super().__init__()
        self.unet = copy.deepcopy(unet)
        del self.unet.output_blocks, self.unet.out

    def forward(self, x: Tensor, stem: Tensor, *, c_noise: Tensor, context: Tensor, y: Tensor, frames: int):
        """The skip tensors, then the middle one; x, stem [(b t), c, h, w], c_noise [(b t)], y [(b t), d]."""
        from comfy.ldm.modules.diffusionmodules.openaimodel import forward_timestep_embed, timestep_embedding

        unet, options = self.unet, {}
        emb = unet.time_embed(timestep_embedding(c_noise, unet.model_channels)) + unet.label_emb(y)
        features = []
        for i, block in enumerate([*unet.input_blocks, unet.middle_block]):
            x = forward_timestep_embed(block, x, emb, context, options, num_video_frames=frames)
            features.append(x := x + stem if i == 0 else x)
        return features


def build_adapter(model: Any, adapter: Any) -> tuple[Any, dict[str, Any]]:
    """The condition encoder over the host's own trunk, and the attention sites by where they sit."""
    from vfi_core.adapter import lora_paths, merged_weight
    from vfi_core.attention import KeyframeAttention, Sites
    from vfi_core.dialect import to_diffusers, to_single_file
    from vfi_core.encoder import ConditionEncoder, residual_channels, trunk_names

    base = to_diffusers("unet", model.diffusion_model.state_dict())
    shapes = {name: tuple(t.shape) for name, t in base.items()}
    adapter.check(shapes)
    tensors, options = adapter.tensors, adapter.options
    trunk = {name: tensors.get(f"encoder.trunk.{name}", base[name]) for name in trunk_names(base)}
    for path in lora_paths(tensors):
        pair = (tensors[f"encoder.lora.{path}.lora_{m}.weight"] for m in "AB")
        trunk[f"{path}.weight"] = merged_weight(trunk[f"{path}.weight"], *pair, options)
    encoder = ConditionEncoder(Trunk(model.diffusion_model), residual_channels(shapes))
    load_whole(encoder.trunk.unet, to_single_file("unet", trunk))
    for name, part in (("stem", encoder.stem), ("out", encoder.out)):
        load_whole(part, section(tensors, f"encoder.{name}."))
    sites = {}
    for where in options.attends:
        mine = section(tensors, f"attention.{where}.")
        widths = {
            key.removesuffix(".q.weight"): len(t) for key, t in mine.items() if key.endswith(".q.weight")
        }
        sites[where] = Sites(
            {
                path: KeyframeAttention(c, adapter.head_dim, options.kf_join, options.kf_pool)
                for path, c in widths.items()
            }
        )
        load_whole(sites[where], mine)
    return encoder, sites


def compute_adapted(model: Any, adapter: Any, inputs: Tensors, job: dict[str, Any], hinted: bool) -> Tensors:
    """D(x; sigma) of the adapted model, and what the condition encoder adds."""
    from contextlib import nullcontext

    from vfi_core.attention import attending
    from vfi_core.clipspan import ClipSpan
    from vfi_core.dialect import unet_path_to_comfy

    x, sigma, context = inputs["unet.x"], inputs["unet.sigma"], inputs["unet.context"]
    b, t, _, height, width = x.shape
    encoder, sites = build_adapter(model, adapter)
    alone = adapter.options.encoder_input == "keyframes"
    strength = torch.tensor(job["hinted"]) if hinted else None
    layers = model.diffusion_model.num_res_blocks[0]

    def attention(where: str, unet: Any, strength: Tensor | None) -> Any:
        if where not in sites:
            return nullcontext()
        span = ClipSpan(t, *job["ends"], height, width, rows=b, attention_strength=strength)
        blocks = {
            path: unet.get_submodule(unet_path_to_comfy(path, layers)) for path, _ in sites[where].items()
        }
        transposed = frozenset(path for path in blocks if "temporal_transformer_blocks" in path)
        return attending(sites[where], blocks, span, transposed)

    adm = model.encode_adm(
        fps=job["fps"], motion_bucket_id=job["motion_bucket_id"], augmentation_level=job["aug"]
    )
    y = adm.repeat(b * t, 1)
    sigma = sigma.repeat_interleave(t)
    x, concat, hint = x.flatten(0, 1), inputs["unet.concat"].flatten(0, 1), inputs["unet.hint"].flatten(0, 1)
    context = context.repeat_interleave(t, dim=0)
    with attention("encoder", encoder.trunk.unet, None):
        *skips, middle = encoder(
            None if alone else torch.cat([model.model_sampling.calculate_input(sigma, x), concat], dim=1),
            hint,
            c_noise=model.model_sampling.timestep(sigma).float(),
            context=torch.zeros_like(context) if alone else context,
            y=y,
            frames=t,
        )
    outputs = {"middle": middle.clone(), "skip": skips[3].clone()}
    if strength is not None:
        per_frame = strength.repeat_interleave(t)[:, None, None, None]
        *skips, middle = (r * per_frame for r in (*skips, middle))
    with attention("unet", model.diffusion_model, strength):
        denoised = model.apply_model(
            x,
            sigma,
            c_concat=concat,
            c_crossattn=context,
            control={"output": skips, "middle": [middle]},  # popped from the end
            y=y,
            num_video_frames=t,
        )
    return outputs | {"denoised": denoised.unflatten(0, (b, t))}


def compute_vae(vae: Any, inputs: Tensors) -> Tensors:
    return {"latents": vae.encode(inputs["vae.pictures"]), "pictures": vae.decode(inputs["vae.latents"])}


def compute_image_encoder(encoder: Any, inputs: Tensors) -> Tensors:
    embeds = [
        encoder.encode_image(inputs[key], crop=False).image_embeds
        for key in sorted(inputs)
        if key.startswith("clip.")
    ]
    return {"embeds": torch.cat(embeds)}


def stock_differences(shapes: dict[str, list[int]]) -> Tensors:
    """How many tensors of a full-size file the stock loader's models want otherwise; nothing is allocated."""
    import comfy.clip_model
    import comfy.clip_vision
    import comfy.model_detection
    import comfy.ops

    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    model_config = comfy.model_detection.model_config_from_unet(state, "model.diffusion_model.")
    if type(model_config).__name__ != "SVD_img2vid":
        raise ValueError(f"the host takes the file for {type(model_config).__name__}")
    clip = json.loads(Path(comfy.clip_vision.__file__).with_name("clip_vision_config_h.json").read_text())
    vae = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2}  # as comfy.sd.VAE writes them
    with torch.device("meta"):
        model_config.set_inference_dtype(torch.float32, None)
        models = [
            (model_config.get_model(state, device="meta").diffusion_model, "model.diffusion_model."),
            (new_vae(vae), "first_stage_model."),
        ]
        encoder = comfy.clip_model.CLIPVisionModelProjection(
            clip, torch.float32, "meta", comfy.ops.manual_cast
        )
    converted = comfy.clip_vision.convert_to_transformers(
        {k: t for k, t in state.items() if k.startswith(CLIP)}, CLIP
    )
    different = 0
    for model, mine in [*((m, section(state, p)) for m, p in models), (encoder, converted)]:
        wanted = {key: t.shape for key, t in model.state_dict().items() if "position_ids" not in key}
        different += len({*wanted.items()} ^ {(key, t.shape) for key, t in mine.items()})
    return {"differences": torch.tensor(different)}


def run(parts: dict[str, Callable[[], Tensors]], folder: Path) -> None:
    outputs: Tensors = {}
    errors: dict[str, str] = {}
    for name, part in parts.items():
        try:
            outputs |= {f"{name}.{key}": t.detach().float().contiguous() for key, t in part().items()}
        except Exception:
            errors[name] = traceback.format_exc()
    save_file(outputs, folder / "outputs.safetensors")
    (folder / "errors.json").write_text(json.dumps(errors))


@torch.inference_mode()
def main(comfy: str, folder: Path) -> None:
    sys.path.insert(0, comfy)  # the host first: our root has names of its own
    sys.path.append(str(ROOT))
    from comfy.cli_args import args

    args.cpu = True
    from vfi_core.adapter import load_adapter

    state, config = read(folder / "svd.safetensors")
    inputs = load_file(folder / "inputs.safetensors")
    job = json.loads((folder / "job.json").read_text())
    run(
        {
            "unet": lambda: compute_unet(build_model(state, config), inputs, job),
            **{
                name: lambda name=name, hinted=hinted: compute_adapted(
                    build_model(state, config),
                    load_adapter(folder / f"{name}.safetensors"),
                    inputs,
                    job,
                    hinted,
                )
                for name, hinted in job["adapters"].items()
            },
            "quiet_unet": lambda: compute_unet(build_model(*read(folder / "quiet.safetensors")), inputs, job),
            "small_unet": lambda: compute_unet(build_model(*read(folder / "small.safetensors")), inputs, job),
            "stock": lambda: stock_differences(json.loads((folder / "full_size.json").read_text())),
            "vae": lambda: compute_vae(build_vae(state, config), inputs),
            "small_vae": lambda: compute_vae(build_vae(*read(folder / "small.safetensors")), inputs),
            "clip": lambda: compute_image_encoder(build_image_encoder(state, config, folder), inputs),
        },
        folder,
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
