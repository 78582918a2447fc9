"""Contract: diffusers and ComfyUI compute the same numbers from one file; what one trains runs in the other.

All of it in float32 on a random toy, every weight alive. Where no ComfyUI is found the tests skip.
"""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.comfyui import comfyui, interpreter, random_adapter, toy
from tests.svd.toys import SPARSE, toy_svd
from vfi_core.adapter import PRESETS, load_adapter, save_adapter
from vfi_core.clipspan import ClipSpan
from vfi_core.dialect import PREFIXES, to_single_file
from vfi_core.edm import scalings
from vfi_core.svd.adapted import AdapterModules, load_modules, predict
from vfi_core.svd.load import FULL_SIZE, SVD, build, save_single_file
from vfi_core.svd.pictures import embed

HOST_SIDE = Path(__file__).with_name("host_side.py")
TOLERANCE = 2e-5  # float32 in two implementations; 2e-6 measured
FRAMES = 5
LATENT = (8, 16)  # not square, so that a swapped axis shows
ENDS = (1, 4)  # first and last known frame

# Both joins, pooled or not, in the U-Net alone or in the encoder too, a full trunk and a low-rank one.
ADAPTERS = {"paper": PRESETS["paper"], "fast": PRESETS["fast"]}
JOB = {
    "fps": 7,
    "motion_bucket_id": 127,
    "aug": 0.02,
    "ends": ENDS,
    "adapters": {"paper": False, "fast": True},  # name -> whether `hinted` switches rows off
    "hinted": [0.0, 1.0],
}


COMFYUI = comfyui()
pytestmark = [
    pytest.mark.comfyui,
    pytest.mark.skipif(COMFYUI is None, reason="no ComfyUI: set COMFYUI_PATH to a checkout"),
]


def small_svd() -> SVD:
    """One ResNet a level, and no transformers on the finest."""
    return toy_svd(layers=1, attends=SPARSE)


@cache
def quiet_svd() -> SVD:
    """The toy with small activations, where the epsilon of a normalisation shows."""
    svd = copy.deepcopy(toy())
    for name, weight in svd.unet.named_parameters():
        if any(part in name for part in ("conv_in.", ".conv2.", ".proj_out.", ".conv_shortcut.")):
            weight.mul_(0.05)
    return svd


def full_size_shapes() -> dict[str, list[int]]:
    """Names and shapes of a single file with Stability's dimensions."""
    svd = build(FULL_SIZE, device="meta")
    models = {"unet": svd.unet, "vae": svd.vae, "image_encoder": svd.image_encoder}
    states = {PREFIXES[s]: to_single_file(s, model.state_dict()) for s, model in models.items()}
    return {prefix + key: list(t.shape) for prefix, state in states.items() for key, t in state.items()}


@pytest.fixture(scope="module")
def given() -> dict[str, Tensor]:
    """What both hosts are given: x [b, t, 4, h, w] at two noise levels, latents, pictures."""
    g = torch.Generator().manual_seed(7)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g)

    sigma = torch.tensor([20.0, 0.5])
    return {
        "unet.x": normal(2, FRAMES, 4, *LATENT) * (1 + sigma**2).sqrt().view(-1, 1, 1, 1, 1),
        "unet.sigma": sigma,
        "unet.concat": normal(2, FRAMES, 4, *LATENT) * 5,
        "unet.context": normal(2, 1, toy().config["unet"]["cross_attention_dim"]),
        "unet.hint": normal(2, FRAMES, 5, *LATENT) * 3,
        "vae.pictures": torch.rand(2, 3, 64, 96, generator=g) * 2 - 1,
        "vae.latents": normal(FRAMES, 4, 8, 12) * 5,
        "clip.0_wide": torch.rand(1, 48, 80, 3, generator=g),
        "clip.1_small": torch.rand(1, 24, 20, 3, generator=g),
        "clip.2_exact": torch.rand(1, 32, 32, 3, generator=g),
    }


class Host:
    """What one run of the host left: its outputs, and the tracebacks of the parts that failed."""

    def __init__(self, folder: Path) -> None:
        self.outputs = load_file(folder / "outputs.safetensors")
        self.errors = json.loads((folder / "errors.json").read_text())

    def result(self, part: str, key: str) -> Tensor:
        if part in self.errors:
            pytest.fail(f"the host's side failed:\n{self.errors[part]}")
        return self.outputs[f"{part}.{key}"]


@pytest.fixture(scope="module")
def host(given: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Host:
    """One run of the host for all tests of this file."""
    assert COMFYUI is not None
    folder = tmp_path_factory.mktemp("parity")
    save_single_file(toy(), folder / "svd.safetensors", torch.float32)
    save_single_file(small_svd(), folder / "small.safetensors", torch.float32)
    save_single_file(quiet_svd(), folder / "quiet.safetensors", torch.float32)
    for name, options in ADAPTERS.items():
        save_adapter(random_adapter(options), folder / f"{name}.safetensors", torch.float32)
    (folder / "full_size.json").write_text(json.dumps(full_size_shapes()))
    save_file(given, folder / "inputs.safetensors")
    (folder / "job.json").write_text(json.dumps(JOB))
    command = [interpreter(COMFYUI), str(HOST_SIDE), str(COMFYUI), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=folder)
    if done.returncode:
        pytest.fail(f"the host's side failed:\n{done.stderr[-3000:]}")
    return Host(folder)


@pytest.fixture(scope="module", params=ADAPTERS)
def adapted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """(name, modules) of an adapter that went through its file."""
    path = tmp_path_factory.mktemp("adapter") / f"{request.param}.safetensors"
    save_adapter(random_adapter(ADAPTERS[request.param]), path, torch.float32)
    return request.param, load_modules(toy().unet, load_adapter(path))


def close(ours: Tensor, theirs: Tensor) -> None:
    """Within the tolerance of the values' own size, and neither flat nor NaN: those agree too easily."""
    assert theirs.std() > 1e-3
    worst = (ours - theirs).abs().max() / theirs.abs().max().clamp(min=1)
    print(f"largest difference {worst:.1e} of {theirs.abs().max():.1f}")
    assert worst < TOLERANCE


def ids() -> Tensor:
    return torch.tensor([[JOB["fps"] - 1, JOB["motion_bucket_id"], JOB["aug"]]]).repeat(2, 1)


def denoised(
    given: dict[str, Tensor],
    modules: AdapterModules | None = None,
    hinted: bool = False,
    svd: SVD | None = None,
) -> Tensor:
    """D(x; sigma) by diffusers' U-Net, adapted if there are ``modules``: [b, t, 4, h, w]."""
    x = given["unet.x"]
    c_skip, c_out, c_in, c_noise = (c.view(-1, 1, 1, 1, 1) for c in scalings(given["unet.sigma"]))
    v = predict(
        (svd or toy()).unet,
        modules,
        x * c_in,
        given["unet.concat"],
        given["unet.hint"],
        c_noise.flatten(),
        given["unet.context"],
        ids(),
        ClipSpan(FRAMES, *ENDS, *LATENT),
        torch.tensor(JOB["hinted"]) if hinted else None,
    )
    return c_skip * x + c_out * v


def test_the_stock_loaders_models_want_exactly_the_full_size_file(host: Host) -> None:
    assert host.result("stock", "differences") == 0


@torch.inference_mode()
def test_the_unet_denoises_alike_in_both_hosts(host: Host, given: dict[str, Tensor]) -> None:
    close(denoised(given), host.result("unet", "denoised"))


@torch.inference_mode()
def test_a_unet_with_transformers_on_some_levels_denoises_alike_in_both_hosts(
    host: Host, given: dict[str, Tensor]
) -> None:
    close(denoised(given, svd=small_svd()), host.result("small_unet", "denoised"))


@torch.inference_mode()
def test_small_activations_are_normalised_alike_in_both_hosts(host: Host, given: dict[str, Tensor]) -> None:
    ours = denoised(given, svd=quiet_svd())
    close(ours, host.result("quiet_unet", "denoised"))
    other = copy.deepcopy(quiet_svd())
    for name, module in other.unet.named_modules():
        if isinstance(module, torch.nn.GroupNorm) and ".resnets." in name:
            module.eps = 1e-6  # diffusers' own
    assert (denoised(given, svd=other) - ours).abs().max() > 5 * TOLERANCE  # the comparison tells them apart


@torch.inference_mode()
def test_the_vae_encodes_alike_in_both_hosts(host: Host, given: dict[str, Tensor]) -> None:
    close(toy().vae.encode(given["vae.pictures"]).latent_dist.mode(), host.result("vae", "latents"))


@torch.inference_mode()
@pytest.mark.parametrize(("part", "svd"), [("vae", toy), ("small_vae", small_svd)])
def test_the_temporal_vae_decodes_alike_in_both_hosts(
    host: Host, given: dict[str, Tensor], part: str, svd: Callable[[], SVD]
) -> None:
    pictures = svd().vae.decode(given["vae.latents"], num_frames=FRAMES).sample
    close(pictures, host.result(part, "pictures"))


@torch.inference_mode()
def test_the_image_encoder_embeds_alike_in_both_hosts(host: Host, given: dict[str, Tensor]) -> None:
    pictures = [given[key].movedim(-1, 1) * 2 - 1 for key in sorted(given) if key.startswith("clip.")]
    ours = torch.cat([embed(toy().image_encoder, picture) for picture in pictures])
    close(ours, host.result("clip", "embeds"))


@torch.inference_mode()
def test_the_condition_encoder_reads_alike_in_both_hosts(
    host: Host, given: dict[str, Tensor], adapted: tuple[str, AdapterModules]
) -> None:
    name, modules = adapted
    c_in, c_noise = scalings(given["unet.sigma"])[2:]
    x = torch.cat([given["unet.x"] * c_in.view(-1, 1, 1, 1, 1), given["unet.concat"]], dim=2)
    span = ClipSpan(FRAMES, *ENDS, *LATENT)
    residuals = modules.residuals(x, given["unet.hint"], c_noise, ids(), given["unet.context"], span)
    close(residuals[3], host.result(name, "skip"))
    close(residuals[-1], host.result(name, "middle"))


@torch.inference_mode()
def test_the_adapted_unet_denoises_alike_in_both_hosts(
    host: Host, given: dict[str, Tensor], adapted: tuple[str, AdapterModules]
) -> None:
    name, modules = adapted
    ours = denoised(given, modules, JOB["adapters"][name])
    assert (ours - denoised(given))[-1].abs().max() > 0.1  # the adapter does something
    close(ours, host.result(name, "denoised"))
