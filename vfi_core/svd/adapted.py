"""The adapted U-Net: a frozen SVD U-Net, and what an adapter adds to it, as one function of the denoiser's
inputs.

Legend: b rows of the batch (clips, or the branches of guidance), t frames, h w latent.
"""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportGeneralTypeIssues=false
# diffusers annotates only its tuple returns, and torch every submodule as Tensor | Module.

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TypeAlias

import torch
from diffusers import UNetSpatioTemporalConditionModel
from einops import repeat
from torch import Tensor, nn

from ..adapter import Adapter, Options, lora_paths, merged_weight
from ..attention import KeyframeAttention, Sites, attending, attention_paths
from ..clipspan import ClipSpan
from ..encoder import ConditionEncoder, residual_channels
from ..framer import Framer
from ..reversal import Reversal
from ..weights import Weights
from .framer import FramerModules, load_framer_modules
from .hooks import adding_residuals
from .trunk import Trunk
from .turned import load_turned


class AdapterModules(nn.Module):
    """An adapter's modules on a U-Net, at step 0: the adapted model is the base model.

    The state dict's names are the adapter file's (with `encoder.trunk.*` whether or not the trunk is the
    adapter's own).
    """

    def __init__(self, unet: UNetSpatioTemporalConditionModel, options: Options) -> None:
        super().__init__()
        self.options = options
        shapes = shapes_of(unet)
        self.head_dim = head_dim_of(unet)
        self.encoder = ConditionEncoder(
            Trunk(unet, share=options.encoder_weights == "lora"), residual_channels(shapes)
        )
        self.encoder.start_from(unet.conv_in, options.encoder_input)
        self.attention = nn.ModuleDict()
        for where in options.attends:
            sites = {}
            for path in attention_paths(shapes, encoder_only=where == "encoder"):
                block = unet.get_submodule(path)
                site = KeyframeAttention(
                    shapes[f"{path}.attn1.to_q.weight"][1], self.head_dim, options.kf_join, options.kf_pool
                )
                attn1 = block.attn1
                site.start_from(block.norm1, attn1.to_q, attn1.to_k, attn1.to_v)
                sites[path] = site
            self.attention[where] = Sites(sites)
        first = next(unet.parameters())
        self.to(first.device, first.dtype)

    def residuals(
        self,
        x: Tensor,
        hint: Tensor,
        c_noise: Tensor,
        ids: Tensor,
        context: Tensor,
        span: ClipSpan,
        hooks: contextlib.ExitStack | None = None,
    ) -> list[Tensor]:
        """The condition encoder's residuals, each [(b t), c, h, w].

        x        [b, t, 8, h, w]  the U-Net's input; not looked at with `encoder_input = keyframes`
        hint     [b, t, 5, h, w]
        context  [b, n, d]        likewise
        hooks    see `predict`
        """
        alone = self.options.encoder_input == "keyframes"
        if alone:  # one zero token: the image embedding alone would move the features by 15 %
            context = context.new_zeros(context.shape[0], 1, context.shape[-1])
        with contextlib.ExitStack() as own:
            attending = self.attending("encoder", self.encoder.trunk, replace(span, attention_strength=None))
            (own if hooks is None else hooks).enter_context(attending)
            return self.encoder(
                None if alone else x.flatten(0, 1),
                hint.flatten(0, 1),
                c_noise=c_noise,
                context=context,
                ids=ids,
                frames=span.frames,
            )

    def attending(
        self, where: str, root: nn.Module, span: ClipSpan
    ) -> contextlib.AbstractContextManager[None]:
        """Keyframe attention, if any, on the blocks of ``root``: the U-Net (`unet`) or trunk (`encoder`)."""
        if where not in self.attention:
            return contextlib.nullcontext()
        sites = self.attention[where]
        return attending(sites, {path: root.get_submodule(path) for path, _ in sites.items()}, span)


Modules: TypeAlias = AdapterModules | FramerModules | Sites  # the last of a `Reversal`


def shapes_of(unet: nn.Module) -> dict[str, tuple[int, ...]]:
    """Parameter names and shapes of a U-Net."""
    return {name: tuple(p.shape) for name, p in unet.named_parameters()}


def head_dim_of(unet: UNetSpatioTemporalConditionModel) -> int:
    """Channels of an attention head, the same at every level (64 in SVD)."""
    heads = unet.config["num_attention_heads"]
    return unet.config["block_out_channels"][0] // (heads if isinstance(heads, int) else heads[0])


def check_base(unet: UNetSpatioTemporalConditionModel, adapter: Adapter) -> None:
    """Raises ValueError where ``unet`` is not of the dimensions of the base the adapter was trained on."""
    adapter.check(shapes_of(unet))
    if adapter.head_dim != head_dim_of(unet):
        raise ValueError(
            f"{adapter.name} has attention heads of {adapter.head_dim} channels, this base of "
            f"{head_dim_of(unet)}; load the checkpoint it was trained on"
        )


def load_modules(unet: UNetSpatioTemporalConditionModel, weights: Weights) -> Modules:
    """What the weights put on their base, frozen. Raises ValueError for a base they were not made for."""
    if isinstance(weights, Framer):
        return load_framer_modules(unet, weights)
    if isinstance(weights, Reversal):
        return load_turned(unet, weights)
    return load_adapter_modules(unet, weights)


def load_adapter_modules(unet: UNetSpatioTemporalConditionModel, adapter: Adapter) -> AdapterModules:
    """The trained modules of an adapter on its base, frozen. Raises ValueError for an adapter of another."""
    check_base(unet, adapter)
    modules = AdapterModules(unet, adapter.options)
    plain = {k: v for k, v in adapter.tensors.items() if not k.startswith("encoder.lora.")}
    modules.load_state_dict(plain, strict=False)
    trunk = modules.encoder.trunk
    for path in lora_paths(adapter.tensors):
        layer = trunk.get_submodule(path)
        pair = (adapter.tensors[f"encoder.lora.{path}.lora_{m}.weight"] for m in "AB")
        # A new parameter, never an in-place change: the old one is the base U-Net's own.
        layer.weight = nn.Parameter(
            merged_weight(layer.weight.detach(), *pair, adapter.options), requires_grad=False
        )
    return modules.eval().requires_grad_(False)


def predict(
    unet: UNetSpatioTemporalConditionModel,
    modules: Modules | None,
    x: Tensor,
    concat: Tensor,
    hint: Tensor | None,
    c_noise: Tensor,
    context: Tensor,
    ids: Tensor,
    span: ClipSpan,
    hinted: Tensor | None = None,
    hooks: contextlib.ExitStack | None = None,
) -> Tensor:
    """The U-Net's output F, [b, t, 4, h, w].

    x        [b, t, 4, h, w]  scaled latents, already x c_in
    concat   [b, t, 4, h, w]  unscaled latents, SVD's concatenated condition; Framer's has a fifth channel
    hint     [b or 1, t, 5, h, w]  [c ; m]; one row serves every row of b where the rows differ in nothing
    else
    c_noise  [b]; context [b, n, d]; ids [b, 3]
    hinted   [b] 1 or 0: rows with 0 get neither residuals nor keyframe attention (`uncond_hint = dropped`)
    hooks    holds the hooks of this call, which are gone on return otherwise: a backward pass through
             checkpointed blocks replays them
    """
    rows = x.shape[0]
    inputs = torch.cat([x, concat], dim=2)
    if isinstance(modules, FramerModules):
        return modules.predict(unet, inputs, c_noise, context, ids)
    if modules is None or hint is None:
        return unet(inputs, c_noise, encoder_hidden_states=context, added_time_ids=ids).sample
    span = replace(span, attention_strength=hinted)
    # With `keyframes` nothing that tells the rows apart is read, so that one pass serves them all.
    n = hint.shape[0] if modules.options.encoder_input == "keyframes" else rows
    hint = hint if hint.shape[0] == n else hint.expand(n, *hint.shape[1:])
    residuals = modules.residuals(inputs[:n], hint, c_noise[:n], ids[:n], context[:n], span, hooks)
    if n < rows:
        residuals = [repeat(r, "t c h w -> (b t) c h w", b=rows) for r in residuals]
    if hinted is not None:
        per_frame = hinted.to(x.dtype).repeat_interleave(span.frames).view(-1, 1, 1, 1)
        residuals = [r * per_frame for r in residuals]
    with contextlib.ExitStack() as own:
        held = own if hooks is None else hooks
        held.enter_context(adding_residuals(unet, residuals))
        held.enter_context(modules.attending("unet", unet, span))
        return unet(inputs, c_noise, encoder_hidden_states=context, added_time_ids=ids).sample
