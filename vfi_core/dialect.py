"""diffusers' names for SVD's weights <-> those of ComfyUI's single-file checkpoint: tables, nothing else.

Three sections: ``unet``, ``vae``, ``image_encoder``. A table pairs the *blocks* of a section (which block of
one dialect is which of the other, for any number of levels and layers) and, for each kind of block, its
*leaves*. Names are relative to the section's prefix. Beyond renaming, the dialects differ in five places: the
VAE's attention is Linear in one and a 1x1 convolution in the other; OpenCLIP fuses q, k and v; it transposes
its projection; the single file has no ``quant_conv``: it is folded into ``encoder.conv_out``; and the middle
of a VAE decoder of one ResNet per level, which is shorter in diffusers, is filled with a neutral block.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

Leaves = dict[str, str]
Table = dict[str, tuple[str, Leaves]]  # block in one dialect -> (block in the other, names inside the block)

PREFIXES = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "image_encoder": "conditioner.embedders.0.open_clip.model.visual.",
}
FIRST, SECOND, PROJECTION = (f"decoder.mid.{x}." for x in ("block_1", "block_2", "attn_1.proj_out"))
ATTENDS = (True, True, True, False)  # SVD's levels from the finest: only the deepest has no attention

RESNET_2D = {"conv_shortcut": "nin_shortcut"}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
VAE_RESNET = {
    "spatial_res_block.norm1": "norm1",
    "spatial_res_block.conv1": "conv1",
    "spatial_res_block.norm2": "norm2",
    "spatial_res_block.conv2": "conv2",
    "spatial_res_block.conv_shortcut": "nin_shortcut",
    "temporal_res_block.norm1": "time_stack.in_layers.0",
    "temporal_res_block.conv1": "time_stack.in_layers.2",
    "temporal_res_block.norm2": "time_stack.out_layers.0",
    "temporal_res_block.conv2": "time_stack.out_layers.3",
    "time_mixer.mix_factor": "mix_factor",
}
UNET_RESNET = {
    "spatial_res_block.norm1": "in_layers.0",
    "spatial_res_block.conv1": "in_layers.2",
    "spatial_res_block.time_emb_proj": "emb_layers.1",
    "spatial_res_block.norm2": "out_layers.0",
    "spatial_res_block.conv2": "out_layers.3",
    "spatial_res_block.conv_shortcut": "skip_connection",
    "temporal_res_block.norm1": "time_stack.in_layers.0",
    "temporal_res_block.conv1": "time_stack.in_layers.2",
    "temporal_res_block.time_emb_proj": "time_stack.emb_layers.1",
    "temporal_res_block.norm2": "time_stack.out_layers.0",
    "temporal_res_block.conv2": "time_stack.out_layers.3",
}
UNET_ATTENTION = {
    "temporal_transformer_blocks": "time_stack",
    "time_pos_embed.linear_1": "time_pos_embed.0",
    "time_pos_embed.linear_2": "time_pos_embed.2",
}
CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def unet_table(layers: int = 2, attends: Sequence[bool] = ATTENDS) -> Table:
    """The U-Net's blocks, diffusers -> ComfyUI, for ``layers`` ResNets per level.

    attends  for every level, from the finest, whether transformers follow its ResNets
    """
    levels = len(attends)
    table: Table = {
        "time_embedding.linear_1": ("time_embed.0", {}),
        "time_embedding.linear_2": ("time_embed.2", {}),
        "add_embedding.linear_1": ("label_emb.0.0", {}),
        "add_embedding.linear_2": ("label_emb.0.2", {}),
        "conv_in": ("input_blocks.0.0", {}),
        "mid_block.resnets.0": ("middle_block.0", UNET_RESNET),
        "mid_block.attentions.0": ("middle_block.1", UNET_ATTENTION),
        "mid_block.resnets.1": ("middle_block.2", UNET_RESNET),
        "conv_norm_out": ("out.0", {}),
        "conv_out": ("out.2", {}),
    }
    for level in range(levels):
        first = 1 + level * (
            layers + 1
        )  # input_blocks.0 is conv_in; a level is its ResNets and one downsampler
        for layer in range(layers):
            table[f"down_blocks.{level}.resnets.{layer}"] = (f"input_blocks.{first + layer}.0", UNET_RESNET)
            if attends[level]:
                table[f"down_blocks.{level}.attentions.{layer}"] = (
                    f"input_blocks.{first + layer}.1",
                    UNET_ATTENTION,
                )
        if level < levels - 1:
            table[f"down_blocks.{level}.downsamplers.0"] = (
                f"input_blocks.{first + layers}.0",
                {"conv": "op"},
            )
        first = level * (
            layers + 1
        )  # the decoder has one ResNet more per level; its upsampler sits beside the last
        for layer in range(layers + 1):
            table[f"up_blocks.{level}.resnets.{layer}"] = (f"output_blocks.{first + layer}.0", UNET_RESNET)
            if attends[-1 - level]:
                table[f"up_blocks.{level}.attentions.{layer}"] = (
                    f"output_blocks.{first + layer}.1",
                    UNET_ATTENTION,
                )
        if level < levels - 1:
            table[f"up_blocks.{level}.upsamplers.0"] = (
                f"output_blocks.{first + layers}.{2 if attends[-1 - level] else 1}",
                {},
            )
    return table


def vae_table(layers: int = 2, levels: int = 4) -> Table:
    """The temporal VAE's blocks, diffusers -> ComfyUI, which counts the decoder's levels from the finest."""
    table: Table = {"decoder.time_conv_out": ("decoder.conv_out.time_mix_conv", {})}
    for half, resnet in (("encoder", RESNET_2D), ("decoder", VAE_RESNET)):
        table[f"{half}.conv_in"] = (f"{half}.conv_in", {})
        table[f"{half}.mid_block.resnets.0"] = (f"{half}.mid.block_1", resnet)
        table[f"{half}.mid_block.attentions.0"] = (f"{half}.mid.attn_1", VAE_ATTENTION)
        table[f"{half}.mid_block.resnets.1"] = (f"{half}.mid.block_2", resnet)
        table[f"{half}.conv_norm_out"] = (f"{half}.norm_out", {})
        table[f"{half}.conv_out"] = (f"{half}.conv_out", {})
    for level in range(levels):
        for layer in range(layers):
            table[f"encoder.down_blocks.{level}.resnets.{layer}"] = (
                f"encoder.down.{level}.block.{layer}",
                RESNET_2D,
            )
        for layer in range(layers + 1):
            table[f"decoder.up_blocks.{level}.resnets.{layer}"] = (
                f"decoder.up.{levels - 1 - level}.block.{layer}",
                VAE_RESNET,
            )
        if level < levels - 1:
            table[f"encoder.down_blocks.{level}.downsamplers.0"] = (f"encoder.down.{level}.downsample", {})
            table[f"decoder.up_blocks.{level}.upsamplers.0"] = (
                f"decoder.up.{levels - 1 - level}.upsample",
                {},
            )
    return table


def image_encoder_table(layers: int = 32) -> Table:
    """The image encoder's blocks, transformers -> OpenCLIP, but for q, k, v and the projection."""
    table: Table = {
        "vision_model.embeddings.class_embedding": ("class_embedding", {}),
        "vision_model.embeddings.patch_embedding": ("conv1", {}),
        "vision_model.embeddings.position_embedding.weight": ("positional_embedding", {}),
        "vision_model.pre_layrnorm": ("ln_pre", {}),  # sic
        "vision_model.post_layernorm": ("ln_post", {}),
    }
    for layer in range(layers):
        table[f"vision_model.encoder.layers.{layer}"] = (f"transformer.resblocks.{layer}", CLIP_LAYER)
    return table


def inverse(table: Table) -> Table:
    """The same table read from right to left."""
    return {there: (here, {v: k for k, v in leaves.items()}) for here, (there, leaves) in table.items()}


def rename(path: str, table: Table) -> str:
    """The module or tensor ``path`` in the other dialect. ValueError if the table knows no block of it."""
    block = _longest_prefix(path, table)
    if block is None:
        raise ValueError(
            f"{path!r} belongs to no block of Stable Video Diffusion; check which model it comes from"
        )
    renamed, leaves = table[block]
    rest = path[len(block) + 1 :]
    leaf = _longest_prefix(rest, leaves)
    if leaf is not None:
        rest = leaves[leaf] + rest[len(leaf) :]
    return f"{renamed}.{rest}" if rest else renamed


def unet_path_to_comfy(path: str, layers: int = 2) -> str:
    """ComfyUI's name for the U-Net module diffusers calls ``path``; ``layers`` is ``layers_per_block``.

    ``down_blocks.0.attentions.1.transformer_blocks.0`` -> ``input_blocks.2.1.transformer_blocks.0``
    """
    return rename(path, unet_table(layers))


def unet_path_to_diffusers(path: str, layers: int = 2) -> str:
    """diffusers' name for the U-Net module ComfyUI calls ``path``: `unet_path_to_comfy` read backwards."""
    return rename(path, inverse(unet_table(layers)))


def to_single_file(section: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """``state`` in diffusers' dialect -> the same weights in ComfyUI's, without the section's prefix.

    The VAE's ``quant_conv`` is folded into ``encoder.conv_out`` in float32. Meta tensors keep their shapes.
    Raises ValueError for a name that is no part of ``section``.
    """
    if section == "unet":
        levels = range(_count(state, r"down_blocks\.(\d+)\."))
        attends = [any(key.startswith(f"down_blocks.{i}.attentions.") for key in state) for i in levels]
        table = unet_table(_count(state, r"down_blocks\.0\.resnets\.(\d+)\."), attends)
        return {rename(key, table): tensor for key, tensor in state.items()}
    if section == "vae":
        levels = _count(state, r"encoder\.down_blocks\.(\d+)\.")
        table = vae_table(_count(state, r"encoder\.down_blocks\.0\.resnets\.(\d+)\."), levels)
        renamed = {rename(key, table): tensor for key, tensor in _fold_quant_conv(state).items()}
        flat = {key: t[:, :, None, None] if _is_vae_attention(key, t) else t for key, t in renamed.items()}
        return _with_whole_middle(flat)
    if section == "image_encoder":
        return _image_encoder_to_single_file(state)
    raise ValueError(f"section {section!r} is unknown; use one of {', '.join(PREFIXES)}")


def to_diffusers(section: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """``state`` in ComfyUI's dialect, without its prefix -> the same weights in diffusers'.

    The VAE gets an identity ``quant_conv``: the single file has that convolution inside ``encoder.conv_out``.
    Raises ValueError for a name that is no part of ``section``.
    """
    if section == "unet":
        each = _first(state, r"input_blocks\.(\d+)\.0\.op\.weight")  # conv_in, then ResNets and downsampler
        begins = range(1, _count(state, r"input_blocks\.(\d+)\."), each)
        attends = [any(key.startswith(f"input_blocks.{i}.1.") for key in state) for i in begins]
        table = inverse(unet_table(each - 1, attends))
        return {rename(key, table): tensor for key, tensor in state.items()}
    if section == "vae":
        state = _without_whole_middle(state)
        levels = _count(state, r"encoder\.down\.(\d+)\.")
        table = inverse(vae_table(_count(state, r"encoder\.down\.0\.block\.(\d+)\."), levels))
        flat = {key: t[:, :, 0, 0] if _is_vae_attention(key, t) else t for key, t in state.items()}
        return {rename(key, table): tensor for key, tensor in flat.items()} | _identity_quant_conv(state)
    if section == "image_encoder":
        return _image_encoder_to_diffusers(state)
    raise ValueError(f"section {section!r} is unknown; use one of {', '.join(PREFIXES)}")


def _is_vae_attention(key: str, tensor: Tensor) -> bool:
    return ".attn_1." in key and tensor.ndim > 1


def _fold_quant_conv(state: dict[str, Tensor]) -> dict[str, Tensor]:
    if "quant_conv.weight" not in state:
        return state
    rest = {key: tensor for key, tensor in state.items() if not key.startswith("quant_conv.")}
    mix = state["quant_conv.weight"].flatten(1).float()  # [2c, 2c, 1, 1] -> [2c, 2c]
    weight, bias = state["encoder.conv_out.weight"], state["encoder.conv_out.bias"]
    folded = torch.einsum("o m, m i h w -> o i h w", mix, weight.float())
    rest["encoder.conv_out.weight"] = folded.to(weight.dtype)
    rest["encoder.conv_out.bias"] = (mix @ bias.float() + state["quant_conv.bias"].float()).to(bias.dtype)
    return rest


def _identity_quant_conv(state: dict[str, Tensor]) -> dict[str, Tensor]:
    bias = state["encoder.conv_out.bias"]
    eye = torch.eye(len(bias), dtype=bias.dtype, device=bias.device)
    return {"quant_conv.weight": eye[:, :, None, None], "quant_conv.bias": torch.zeros_like(bias)}


def _with_whole_middle(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """``mid`` of ComfyUI's decoder: ``block_1``, ``attn_1``, ``block_2``; the last two neutral where missing.

    diffusers' decoder of one ResNet per level runs the first block alone (0.42: the forward pass of
    `MidBlockTemporalDecoder` pairs attentions with the ResNets behind them). A zero projection makes the
    attention return its input, zero last convolutions the block: exactly, as a mix of 0 halves two equals.
    """
    if any(key.startswith(SECOND) for key in state):
        return state
    first = {key.removeprefix(FIRST): tensor for key, tensor in state.items() if key.startswith(FIRST)}
    ones = ("norm1.weight", "norm2.weight", "layers.0.weight")
    second = {
        SECOND + key: torch.ones_like(t) if key.endswith(ones) else torch.zeros_like(t)
        for key, t in first.items()
    }
    projection = {key: torch.zeros_like(t) for key, t in state.items() if key.startswith(PROJECTION)}
    return state | second | projection


def _without_whole_middle(state: dict[str, Tensor]) -> dict[str, Tensor]:
    if _count(state, r"encoder\.down\.0\.block\.(\d+)\.") != 1:
        return state
    neutral = (PROJECTION, f"{SECOND}conv2.", f"{SECOND}time_stack.out_layers.3.")
    for key, tensor in state.items():
        if key.startswith(neutral) and not tensor.is_meta and tensor.any():
            raise ValueError(
                f"{key} is not zero, but diffusers' VAE of one ResNet per level runs neither attention nor a "
                "second ResNet in the middle of its decoder; use layers_per_block 2"
            )
    return {key: tensor for key, tensor in state.items() if not key.startswith(SECOND)}


def _image_encoder_to_single_file(state: dict[str, Tensor]) -> dict[str, Tensor]:
    table = image_encoder_table(_count(state, r"vision_model\.encoder\.layers\.(\d+)\."))
    out: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if key == "visual_projection.weight":
            out["proj"] = tensor.T.contiguous()
        elif match := re.fullmatch(r"(.*\.self_attn)\.q_proj\.(weight|bias)", key):
            attention, kind = match.groups()
            block = rename(attention.removesuffix(".self_attn"), table)
            out[f"{block}.attn.in_proj_{kind}"] = torch.cat(
                [state[f"{attention}.{x}_proj.{kind}"] for x in "qkv"]
            )
        elif not re.search(r"\.self_attn\.[kv]_proj\.", key):
            out[rename(key, table)] = tensor
    return out


def _image_encoder_to_diffusers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    table = inverse(image_encoder_table(_count(state, r"transformer\.resblocks\.(\d+)\.")))
    out: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if key == "proj":
            out["visual_projection.weight"] = tensor.T.contiguous()
        elif match := re.fullmatch(r"(.*)\.attn\.in_proj_(weight|bias)", key):
            layer, kind = rename(match[1], table), match[2]
            for x, part in zip("qkv", tensor.chunk(3), strict=True):
                out[f"{layer}.self_attn.{x}_proj.{kind}"] = part.clone()  # three tensors, not views of one
        else:
            out[rename(key, table)] = tensor
    return out


def _longest_prefix(path: str, names: Table | Leaves) -> str | None:
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        if (prefix := ".".join(parts[:end])) in names:
            return prefix
    return None


def _count(state: Iterable[str], pattern: str) -> int:
    """One more than the largest index ``pattern`` finds in the keys; 0 if it finds none."""
    return 1 + max((int(m[1]) for key in state if (m := re.match(pattern, key))), default=-1)


def _first(state: Iterable[str], pattern: str) -> int:
    """The smallest index ``pattern`` finds in the keys. ValueError if it finds none."""
    found = [int(m[1]) for key in state if (m := re.match(pattern, key))]
    if not found:
        raise ValueError(
            f"no key matches {pattern!r}; these are not the weights of Stable Video Diffusion's U-Net"
        )
    return min(found)
