"""The paper's claims and the open options in miniature, measured on videos that training never saw.

    python benchmarks/claims.py swap    --data DIR --adapter fast          does the adapter read the last
    frame?
    python benchmarks/claims.py first   --data DIR --adapter fast          does it leave image-to-video alone?
    python benchmarks/claims.py dropped --data DIR --adapter fast          the hint in both branches, or in
    one
    python benchmarks/claims.py steps   --data DIR --states FILE...        held-out quality against training
    steps, from copies of one run's run.safetensors

Films are made with the adapter's own guidance. The method's options are measured by `study.py`.

DIR holds videos/ and windows.json, as for training. Figures are PSNR in dB, means over clips and generated
frames; differences are paired, with a 95 % bootstrap interval over clips. At nine frames instead of seven:
`svd-vfi evaluate --frames 9`.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from vfi_core.adapter import Adapter, Options, load_adapter
from vfi_core.evaluation.clips import Clip
from vfi_core.evaluation.layouts import Wanted, open_sets
from vfi_core.evaluation.metrics import paired_bootstrap, psnr
from vfi_core.svd.adapted import AdapterModules, head_dim_of, load_modules
from vfi_core.svd.load import SVD, load_svd
from vfi_core.svd.pictures import decode, encode
from vfi_core.svd.sample import sample_segment
from vfi_core.svd.settings import Settings
from vfi_core.tiny import ADAPTERS, ROOM, TINY
from vfi_core.training.config import build, read_toml
from vfi_core.training.recipes import AdapterRecipe
from vfi_core.training.trainable import adapter_key, preset

AVERAGE = "tensor.average."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("claim", choices=("swap", "first", "dropped", "steps"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--adapter", default="fast", help="a bundled adapter's name, or a file")
    parser.add_argument("--model", type=Path, default=TINY)
    parser.add_argument("--per-video", type=int, default=5)
    parser.add_argument("--steps", type=int, default=15, help="sampling steps")
    parser.add_argument("--states", type=Path, nargs="*", default=[], help="kept states of a run")
    args = parser.parse_args()
    if args.claim == "steps" and not args.states:
        parser.error("steps needs --states, copies of a run's run.safetensors")
    svd = load_svd(args.model)
    recipe = _recipe("fast")
    wanted = Wanted(svd.config["frames"], recipe.clips.held_out, args.per_video)
    (clips,) = open_sets(args.data, wanted)
    clips = dataclasses.replace(clips, size=tuple(svd.config["size"]))
    measure = Measure(svd, list(clips), Settings(steps=args.steps))
    if args.claim == "steps":
        _steps(args, svd, measure)
        return
    adapter = load_adapter(ADAPTERS.get(args.adapter, Path(args.adapter)))
    {"swap": _swap, "first": _first, "dropped": _dropped}[args.claim](svd, adapter, measure)


@dataclasses.dataclass
class Measure:
    """PSNR of each clip's generated frames, [clips, frames - 2] or [clips, frames - 1] where only I_1 is
    given.
    """

    svd: SVD
    clips: list[Clip]
    settings: Settings

    def __call__(
        self, modules: AdapterModules | None, training: dict, first_only: bool = False, **changed: object
    ) -> Tensor:
        settings = dataclasses.replace(self.settings, **changed)
        rows = []
        for clip in self.clips:
            frames = clip.frames.permute(0, 3, 1, 2) * 2 - 1
            t = len(frames)
            given = (0,) if first_only else (0, t - 1)
            trained = dict(self.svd.config) | training
            latents = sample_segment(
                self.svd, modules, frames[list(given)], t, settings, trained, 0, None, given
            )
            film = (decode(self.svd, latents).permute(0, 2, 3, 1) / 2 + 0.5).clamp(0, 1)
            generated = slice(1, None) if first_only else slice(1, -1)
            rows.append(psnr(film[generated], clip.frames[generated]))
        return torch.stack(rows)


@torch.no_grad()
def _swap(svd: SVD, adapter: Adapter, measure: Measure) -> None:
    """I_N of the hint replaced by the next clip's; concat latent, embedding and held frames stay."""
    modules = load_modules(svd.unet, adapter)
    own = measure(modules, dict(adapter.training))
    lasts = [encode(svd, (c.frames[-1:].permute(0, 3, 1, 2) * 2 - 1)) for c in measure.clips]
    wrong = iter([*lasts[1:], lasts[0]])
    original: Callable[..., list[Tensor]] = modules.residuals
    rows = []
    for clip in measure.clips:
        other = next(wrong)

        def residuals(x: Tensor, hint: Tensor, *rest: object, other: Tensor = other) -> list[Tensor]:
            hint = hint.clone()
            hint[:, -1, :4] = other
            return original(x, hint, *rest)

        modules.residuals = residuals  # type: ignore[method-assign]
        rows.append(Measure(svd, [clip], measure.settings)(modules, dict(adapter.training)))
    swapped = torch.cat(rows)
    half = own.shape[1] // 2
    _difference("first half, own - swapped I_N", own[:, :half], swapped[:, :half])
    _difference("second half, own - swapped I_N", own[:, half + 1 :], swapped[:, half + 1 :])


@torch.no_grad()
def _first(svd: SVD, adapter: Adapter, measure: Measure) -> None:
    modules = load_modules(svd.unet, adapter)
    ours = measure(modules, dict(adapter.training), first_only=True)
    base = measure(None, {}, first_only=True)
    print(f"only I_1 given: base {base.mean():.2f}, with the adapter {ours.mean():.2f}")
    _difference("adapter - base", ours, base)


@torch.no_grad()
def _dropped(svd: SVD, adapter: Adapter, measure: Measure) -> None:
    kept, dropped = (
        measure(
            load_modules(
                svd.unet,
                dataclasses.replace(adapter, options=dataclasses.replace(adapter.options, uncond_hint=value)),
            ),
            dict(adapter.training),
        )
        for value in ("kept", "dropped")
    )
    plain = measure(load_modules(svd.unet, adapter), dict(adapter.training), guidance=(1.0, 1.0))
    print(f"no guidance {plain.mean():.2f}; guided, kept {kept.mean():.2f}, dropped {dropped.mean():.2f}")
    _difference("dropped - kept", dropped, kept)


def _steps(args: argparse.Namespace, svd: SVD, measure: Measure) -> None:
    """The moving average of each state, in the order given."""
    options = _trained_options(args.adapter)
    for path in args.states:
        with safe_open(path, "pt") as file:
            step = (file.metadata() or {})["step"]
            names = [n for n in file.keys() if n.startswith(AVERAGE)]  # noqa: SIM118
            tensors = {adapter_key(n.removeprefix(AVERAGE)): file.get_tensor(n) for n in names}
        modules = load_modules(svd.unet, Adapter(options, tensors, head_dim_of(svd.unet), {}, path.name))
        print(f"{path.stem}, {step} steps: {measure(modules, {}).mean():.2f} dB", flush=True)


def _trained_options(name: str) -> Options:
    recipe = _recipe(name)
    return preset(recipe.preset, recipe.options)


def _recipe(name: str) -> AdapterRecipe:
    table = read_toml(ROOM / f"{name}.toml")
    table.pop("kind")
    return build(AdapterRecipe, table, name)


def _difference(what: str, a: Tensor, b: Tensor) -> None:
    per_clip = (a.mean(1) - b.mean(1)).tolist()
    low, high = paired_bootstrap(per_clip, 0)
    print(f"{what}: {sum(per_clip) / len(per_clip):+.2f} dB [{low:+.2f}, {high:+.2f}], {len(per_clip)} clips")


if __name__ == "__main__":
    main()
