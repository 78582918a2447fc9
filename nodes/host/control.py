"""The condition encoder as one of the host's ControlNets.

In the CONDITIONING it is estimated, loaded, scheduled and chained by the host like any other.

Legend: b chunks of the batch (branches of guidance), t frames, c channels, h w latent.
"""

from __future__ import annotations

import copy
from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch
from comfy.controlnet import ControlBase
from torch import Tensor

from ...vfi_core.adapter import Adapter, Options
from ...vfi_core.attention import attending
from ...vfi_core.clipspan import ClipSpan
from ...vfi_core.keyframes import Keyframes, blend_known
from .encoder import EncoderModules, blocks_of

KEY = "svd_vfi"  # of our wrappers, additional model, entries in the conditioning and transformer_options
SCALE = 0.18215


class ConditionEncoderControl(ControlBase):
    """CONTROL_NET of an adapter. `bound` gives it the keyframes it reads; without them it refuses to run.

    refresh  with `encoder_input = keyframes`: compute at every refresh-th step of the schedule, reuse between
    """

    def __init__(self, adapter: Adapter, patcher: Any) -> None:
        super().__init__()
        self.adapter, self.patcher = adapter, patcher
        self.keyframes: Keyframes | None = None
        self.refresh = 1
        self.model_sampling: Any = None
        self.kept: tuple[float, list[Tensor]] | None = None  # sigma and the features computed there

    def bound(
        self, keyframes: Keyframes, strength: float, start: float, end: float, refresh: int
    ) -> ConditionEncoderControl:
        """A copy for one segment, strength and percent as in the host's ControlNetApplyAdvanced."""
        c = self.copy()
        c.keyframes, c.refresh = keyframes, refresh
        c.strength, c.timestep_percent_range = strength, (start, end)
        return c

    def copy(self) -> ConditionEncoderControl:
        c = ConditionEncoderControl(self.adapter, self.patcher)
        self.copy_to(c)
        c.keyframes, c.refresh = self.keyframes, self.refresh
        return c

    def deepclone_multigpu(self, load_device: torch.device, autoregister: bool = False) -> Any:
        c = self.copy()
        c.patcher = comfy.model_patcher.ModelPatcher(
            copy.deepcopy(self.patcher.model),
            load_device=load_device,
            offload_device=comfy.model_management.unet_offload_device(),
        )
        if autoregister:
            self.multigpu_clones[load_device] = c
        return c

    def get_models(self) -> list[Any]:
        return [*super().get_models(), self.patcher]

    def inference_memory_requirements(self, dtype: torch.dtype) -> int:
        """Bytes of the features that stay until the U-Net's decoder has taken them, and of those kept."""
        if self.keyframes is None:
            return super().inference_memory_requirements(dtype)
        t, (height, width) = self.keyframes.length, self.keyframes.latents.shape[2:]
        unet = self.patcher.model.encoder.trunk.unet
        elements = 0
        for i, layer in enumerate(self.patcher.model.encoder.out):
            scale = 2 ** min(i // (unet.num_res_blocks[0] + 1), 3)
            elements += layer.weight.shape[0] * t * -(-height // scale) * -(-width // scale)
        size = comfy.model_management.dtype_size(dtype)
        return super().inference_memory_requirements(dtype) + 3 * elements * size

    def pre_run(self, model: Any, percent_to_timestep_function: Any) -> None:
        if self.keyframes is None:
            raise ValueError(
                "the condition encoder of SVD frame interpolation got no keyframes; connect its CONTROL_NET "
                "to 'SVD VFI Conditioning', not to a node for pictures"
            )
        super().pre_run(model, percent_to_timestep_function)
        self.model_sampling, self.kept = model.model_sampling, None

    def cleanup(self) -> None:
        super().cleanup()
        self.model_sampling, self.kept = None, None

    def get_control(
        self,
        x_noisy: Tensor,
        t: Tensor,
        cond: dict[str, Any],
        batched_number: int,
        transformer_options: dict[str, Any],
    ) -> dict[str, list[Tensor]] | None:
        """Residuals for the host's decoder, {"output": skips, "middle": [middle]}, merged with the chain's.

        x_noisy  [(b t), 4, h, w] scaled latents; t [(b t)] sigma; batched_number b
        Raises ValueError where the clip is not the one the keyframes were given for.
        """
        previous = None
        if self.previous_controlnet is not None:
            previous = self.previous_controlnet.get_control(
                x_noisy, t, cond, batched_number, transformer_options
            )
        high, low = self.timestep_range
        if t[0] > high or t[0] < low or self.strength == 0:
            return previous
        run = transformer_options.get(KEY)
        if run is None or run.adapter is not self.adapter:
            raise ValueError(
                f"the conditioning carries the condition encoder of {self.adapter.name}, but this MODEL not "
                "its keyframe attention; connect the MODEL of the same 'SVD VFI Apply Adapter' to the sampler"
            )
        frames, latents = self.keyframes.length, self.keyframes.latents
        if x_noisy.shape[0] != batched_number * frames:
            raise ValueError(
                f"the keyframes belong to a clip of {frames} frames, but {len(x_noisy) // batched_number} "
                "are being sampled; give the latent of the same keyframes, and no context windows"
            )
        if x_noisy.shape[2:] != latents.shape[2:]:  # 0.33 openaimodel.apply_control swallows shape errors
            raise ValueError(
                f"the keyframes were encoded at {pixels(latents)}, but the latent is {pixels(x_noisy)}; give "
                "the latent of the same keyframes"
            )
        features = self.features(x_noisy, t, cond, batched_number, transformer_options)
        shares = hinted(self.adapter.options, transformer_options["cond_or_uncond"])
        if not all(shares):
            per_row = torch.tensor(shares).to(features[0]).repeat_interleave(frames).view(-1, 1, 1, 1)
            features = [f * per_row for f in features]
        *skips, middle = features  # new tensors: the host scales them in place, and pops the lists
        return self.control_merge({"output": skips, "middle": [middle]}, previous, output_dtype=None)

    def features(
        self, x_noisy: Tensor, t: Tensor, cond: dict[str, Any], b: int, transformer_options: dict[str, Any]
    ) -> list[Tensor]:
        """The encoder's residuals for every chunk, each [(b t), c, h, w], its own tensor."""
        if self.adapter.options.encoder_input == "noisy":
            return self.encode(x_noisy, t, cond, b)
        sigma = float(t[0])
        if self.kept is None or not self.reusable(sigma, transformer_options):
            # Nothing that tells the chunks apart is read: one pass serves them all.
            self.kept = sigma, self.encode(x_noisy, t, cond, 1)
        return [feature.repeat(b, 1, 1, 1) for feature in self.kept[1]]

    def reusable(self, sigma: float, transformer_options: dict[str, Any]) -> bool:
        """Whether the features at hand serve at this noise level."""
        if sigma == self.kept[0]:
            return True
        if self.refresh == 1:
            return False
        schedule = transformer_options["sample_sigmas"].tolist()

        def turn(sigma: float) -> int:
            """Which `refresh` steps of the schedule this is one of; samplers also ask between two steps."""
            return max(0, sum(s >= sigma for s in schedule) - 1) // self.refresh

        return turn(sigma) == turn(self.kept[0])

    def encode(self, x_noisy: Tensor, sigma: Tensor, cond: dict[str, Any], b: int) -> list[Tensor]:
        """One pass over the first b chunks."""
        modules: EncoderModules = self.patcher.model
        keyframes, unet = self.keyframes, self.patcher.model.encoder.trunk.unet
        t = keyframes.length
        rows, dtype = b * t, modules.encoder.trunk.unet.dtype

        def shown(tensor: Tensor) -> Tensor:
            return comfy.model_management.cast_to_device(tensor[:rows], x_noisy.device, dtype)

        alone = self.adapter.options.encoder_input == "keyframes"
        context = shown(cond["c_crossattn"])
        sigma = sigma[:rows]
        inputs = None
        if alone:  # one zero token: the image embedding alone would move the features by 15 %
            context = context.new_zeros(rows, 1, context.shape[-1])
        else:
            x = self.model_sampling.calculate_input(sigma, x_noisy[:rows])
            if self.adapter.options.known_frames == "clean":
                x = with_clean_known(x, keyframes)
            inputs = torch.cat([shown(x), shown(cond["c_concat"])], dim=1)
        hint = shown(keyframes.hint).repeat(b, 1, 1, 1)

        def run() -> list[Tensor]:
            return modules.encoder(
                inputs,
                hint,
                c_noise=self.model_sampling.timestep(sigma).float(),
                context=context,
                y=shown(cond["y"]),
                frames=t,
            )

        if modules.sites is None:
            return run()
        span = ClipSpan(t, keyframes.first, keyframes.last, *x_noisy.shape[2:], rows=b)
        blocks, transposed = blocks_of(unet, modules.sites)
        with attending(modules.sites, blocks, span, transposed):
            return run()


def check_whole(
    keyframes: Keyframes, x: Tensor, transformer_options: dict[str, Any], told: dict[str, Any]
) -> tuple[int, int]:
    """(frames, chunks of the batch) of a call of the U-Net. Raises ValueError for a part of the clip."""
    frames, b = keyframes.length, len(transformer_options["cond_or_uncond"])
    if told.get("num_video_frames") != frames or len(x) != b * frames:
        raise ValueError(
            f"in-betweening needs all {frames} frames of the clip at once; take away the context windows"
        )
    return frames, b


def hinted(options: Options, cond_or_uncond: list[int]) -> list[bool]:
    """Whether each chunk gets the adapter: with `uncond_hint = dropped` the positive branch alone."""
    return [options.uncond_hint == "kept" or branch == 0 for branch in cond_or_uncond]


def with_clean_known(x: Tensor, keyframes: Keyframes) -> Tensor:
    """The U-Net's input [(b t), 4, h, w] with the known frames clean instead (`known_frames = clean`)."""
    clips = x.unflatten(0, (-1, keyframes.length))
    return blend_known(clips, keyframes.known.to(x) * SCALE, keyframes.mask.to(x.device)).flatten(0, 1)


def pixels(latents: Tensor) -> str:
    return f"{latents.shape[3] * 8}x{latents.shape[2] * 8}"
