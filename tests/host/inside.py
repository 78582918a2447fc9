"""Laws of the nodes inside ComfyUI; run by the host's own interpreter, never by pytest.

    python inside.py <ComfyUI> <folder>

The folder is furnished by test_nodes.py: a random miniature and another, adapters, keyframes, and the
headless host's films. Every function called ``check_*`` is one law; ``inside.json`` gets the traceback of
each that does not hold.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import sys
import traceback
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(__file__).parents[2]
PACK = "custom_nodes.svd-vfi-under-test"
FOLDER = Path()
STEPS, SEED = 3, 5
METHODS = ("held", "fused", "bidirectional", "motion_prior")  # of any adapter
REVERSED = "reversed"  # of the weights in tuned.safetensors


def load_pack() -> ModuleType:
    """The pack as the host loads it: by its place, under a name that is no identifier."""
    spec = importlib.util.spec_from_file_location(
        PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACK] = module
    spec.loader.exec_module(module)
    return module


@cache
def classes() -> dict[str, Any]:
    extension = asyncio.run(sys.modules[PACK].comfy_entrypoint())
    return {c.define_schema().node_id: c for c in asyncio.run(extension.get_node_list())}


def node(name: str, **inputs: Any) -> tuple:
    """A node of ours executed with its defaults where an input is not given."""
    cls = classes()[f"SVDVFI{name}"]
    given = {i.id: i.default for i in cls.define_schema().inputs if getattr(i, "default", None) is not None}
    for i in cls.define_schema().inputs:
        if i.id not in given and not i.optional and getattr(i, "options", None):
            given[i.id] = i.options[0]
    return cls.execute(**(given | inputs)).result


def host(name: str) -> ModuleType:
    return sys.modules[f"{PACK}.nodes.host.{name}"]


@cache
def loaded(checkpoint: str = "toy") -> tuple[Any, Any, Any]:
    return host("checkpoint").load_checkpoint(FOLDER / f"{checkpoint}.safetensors")


@cache
def adapter(name: str) -> Any:
    loaders = sys.modules[f"{PACK}.nodes.loaders"]
    if name == "none":
        return loaders.open_adapter("none")
    kept = loaders.adapter_path
    loaders.adapter_path = lambda name: FOLDER / f"{name}.safetensors"
    try:
        return loaders.open_adapter(name)
    finally:
        loaders.adapter_path = kept


@cache
def pictures() -> Tensor:
    return load_file(FOLDER / "keyframes.safetensors")["keyframes"]


@cache
def segment() -> tuple[Any, dict]:
    keyframes, latents, _ = node(
        "Keyframes", vae=loaded()[2], images=pictures()[:2], adapter=adapter("none"), seed=SEED
    )
    return keyframes[0], latents[0]


def conditioned(control: Any, **inputs: Any) -> tuple[Any, Any]:
    _, clip_vision, vae = loaded()
    return node(
        "Conditioning",
        clip_vision=clip_vision,
        vae=vae,
        keyframes=segment()[0],
        control_net=control,
        seed=SEED,
        **inputs,
    )


def sampled(model: Any, conds: tuple[Any, Any], **inputs: Any) -> Tensor:
    inputs = {"steps": STEPS, "cfg_ends": 1.0, "cfg_middle": 2.0} | inputs
    positive, negative = conds
    (latent,) = node(
        "Sampler", model=model, positive=positive, negative=negative, latent=segment()[1], seed=SEED, **inputs
    )
    return latent["samples"]


def adapted(name: str, model: Any = None, **inputs: Any) -> Tensor:
    """The filled latent of an adapter on the toy."""
    patched, control = node("ApplyAdapter", model=model or loaded()[0], adapter=adapter(name), **inputs)
    return sampled(patched, conditioned(control))


def stock(model: Any, conds: tuple[Any, Any], latent: dict, name: str = "euler", **inputs: Any) -> Tensor:
    """The host's own sampling: KSampler, or KSamplerAdvanced with these inputs."""
    import nodes as host_nodes

    positive, negative = conds
    if not inputs:
        return host_nodes.common_ksampler(
            model, SEED, STEPS, 2.0, name, "karras", positive, negative, latent
        )[0]["samples"]
    (out,) = host_nodes.KSamplerAdvanced().sample(
        model,
        noise_seed=SEED,
        steps=4,
        cfg=2.0,
        sampler_name=name,
        scheduler="karras",
        positive=positive,
        negative=negative,
        latent_image=latent,
        **inputs,
    )
    return out["samples"]


def hooks_on(module: torch.nn.Module) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in module.modules())


def close(a: Tensor, b: Tensor, most: float = 1e-4) -> None:
    distance = (a.float() - b.float()).abs().max().item()
    assert distance <= most, f"{distance} apart, {most} allowed"


def differ(a: Tensor, b: Tensor, least: float = 1e-3) -> None:
    distance = (a.float() - b.float()).abs().max().item()
    assert distance >= least, f"only {distance} apart"


def refused(words: str, action: Any, *args: Any, **kwargs: Any) -> None:
    try:
        action(*args, **kwargs)
    except ValueError as error:
        assert words in str(error), f"'{error}' does not say '{words}'"
        assert "\n" not in str(error)
        return
    raise AssertionError(f"nothing was refused; '{words}' was expected")


def check_the_pack_lives_on_the_host_s_own_packages():
    assert not {"diffusers", "peft", f"{PACK}.vfi_core.svd"} & set(sys.modules)


# The film of the headless host


def film(name: str, images: Tensor, method: str = "held") -> Tensor:
    model, clip_vision, vae = loaded()
    return node(
        "Interpolate",
        model=model,
        clip_vision=clip_vision,
        vae=vae,
        images=images,
        adapter=adapter(name),
        seed=SEED,
        steps=STEPS,
        cfg_ends=1.0,
        cfg_middle=2.0,
        method=method,
        size="picture size" if name == "framer" else "trained size",
    )[0]


def check_films_are_the_headless_host_s():
    known = (*METHODS, REVERSED)
    films = [path for path in sorted(FOLDER.glob("*_*.safetensors")) if path.stem.rpartition("_")[0] in known]
    assert len(films) == 22
    for path in films:
        method, _, name = path.stem.rpartition("_")
        mine = film(name, pictures() if method == "held" else pictures()[:2], method)
        theirs = load_file(path)["film"]
        assert mine.shape == theirs.shape and mine.dtype == torch.float32
        distance = (mine - theirs).abs()
        assert distance.max() <= 1 / 255 and distance.mean() <= 1e-3, (
            path.stem,
            distance.max(),
            distance.mean(),
        )


class Skips:
    """Another pack's skip list."""

    def is_frame_skipped(self, index: int) -> bool:
        return index == 0


def whole(name: str = "none", **inputs: Any) -> tuple:
    """Interpolate's outputs on the toy, for all three keyframes."""
    models = dict(zip(("model", "clip_vision", "vae"), loaded(), strict=True))
    fixed = {"images": pictures(), "seed": SEED, "steps": STEPS, "cfg_ends": 1.0, "cfg_middle": 2.0}
    return node("Interpolate", **models, adapter=adapter(name), **(fixed | inputs))


def check_a_timeline_is_the_headless_host_s():
    """A skipped gap, long ones drawn in parts, a loop, one segment of another seed, locked colours."""
    film, _, indices = whole(
        multiplier=9, loop=True, interpolation_states=Skips(), reseed="2: 77", colour_lock=True
    )
    theirs = load_file(FOLDER / "timeline.safetensors")["film"]
    assert film.shape == theirs.shape == (27, *pictures().shape[1:]) and indices == [0, 9, 18]
    distance = (film - theirs).abs()
    assert distance.max() <= 2 / 255 and distance.mean() <= 1e-3, (distance.max(), distance.mean())
    assert torch.equal(film[:9], pictures()[:1].expand(9, -1, -1, -1))  # held
    assert torch.equal(film[indices], pictures())


def check_churn_is_the_headless_host_s():
    """On the CPU both go on with the numbers behind the segment's noise."""
    film = whole(churn=2.0)[0]
    distance = (film - load_file(FOLDER / "churned.safetensors")["film"]).abs()
    assert distance.max() <= 1 / 255 and distance.mean() <= 1e-3, (distance.max(), distance.mean())
    differ(film, whole()[0])
    refused("dpmpp_2m has none", whole, churn=2.0, sampler_name="dpmpp_2m")
    refused("bidirectional has none", whole, churn=2.0, method="bidirectional")


def check_separate_nodes_take_skips_and_seeds_too():
    given = {"vae": loaded()[2], "images": pictures(), "adapter": adapter("none"), "seed": SEED}
    keyframes, _, seeds = node("Keyframes", **given, interpolation_states=Skips(), reseed="1: 8")
    assert seeds == [8] and [k.segment.number for k in keyframes] == [1]
    frames = torch.full((7, *pictures().shape[1:]), 0.5)
    film, _, indices = node("Assemble", images=[frames], keyframes=keyframes)
    assert len(film) == 13 and torch.equal(film[:6], pictures()[:1].expand(6, -1, -1, -1))
    keyframes, _, seeds = node("Keyframes", **given, first_keyframe=4)
    film, _, indices = node("Assemble", images=[frames, frames], keyframes=keyframes)
    assert seeds == [SEED + 4, SEED + 5] and len(film) == 12 and indices == [5, 11]
    assert torch.equal(film[indices], pictures()[1:])
    refused("gap 5 was given a seed", node, "Keyframes", **given, reseed="5: 8")
    both = given | {"images": pictures()[:2]}
    refused("every gap is skipped", node, "Keyframes", **both, interpolation_states=Skips())
    refused("at least 3", node, "Keyframes", **given, clip_frames=2)


def check_a_film_in_parts_is_the_whole_film():
    film = whole(multiplier=3)[0]
    first = whole(images=pictures()[:2], multiplier=3)[0]
    second, _, indices = whole(images=pictures()[1:], multiplier=3, first_keyframe=1)
    assert torch.equal(torch.cat([first, second]), film) and indices == [2]


def check_one_segment_drawn_anew_computes_no_other():
    fill_room = sys.modules[f"{PACK}.nodes.fill"]
    kept_room, untouched = host("kept"), fill_room.kept_frames
    draw, drawn = host("film").Drawing.draw, []

    def counted(self, frames, first, last, seed, bar):
        drawn.append(seed)
        return draw(self, frames, first, last, seed, bar)

    host("film").Drawing.draw = counted
    fill_room.kept_frames = lambda model, _: kept_room.kept_frames(model, "7")
    try:
        once = whole(multiplier=3)[0]
        again = whole(multiplier=3)[0]
        assert drawn == [SEED, SEED + 1] and torch.equal(once, again)
        other = whole(multiplier=3, reseed="1: 99")[0]
        assert drawn[2:] == [99] and torch.equal(other[:4], once[:4]) and not torch.equal(other, once)
        assert torch.equal(whole(multiplier=3)[0], once) and drawn[3:] == [
            SEED + 1
        ]  # the last film alone is kept
        whole(multiplier=3, steps=STEPS - 1)
        whole("fast", multiplier=3)
        assert len(drawn) == 8
        once = whole(multiplier=3)[0]
        second = once[4:6].clone()
        once[1:3] = 0.5  # a node further on writes into the film it was given
        drawn.clear()
        again = whole(multiplier=3)[0]
        assert drawn == [SEED] and torch.equal(again[4:6], second) and not (again[1:3] == 0.5).all()
        kept = kept_room.kept_frames(loaded()[0], "7")

        def cancelled(self, frames, first, last, seed, bar):
            if len(drawn) == 3:
                raise KeyboardInterrupt
            return counted(self, frames, first, last, seed, bar)

        host("film").Drawing.draw = cancelled
        drawn[:] = [0, 0]
        try:
            whole(multiplier=3, reseed="0: 41, 1: 42")
        except KeyboardInterrupt:
            pass
        assert len(kept) == 1  # the one finished segment, and no film behind it
        assert all(one.frames.untyped_storage().nbytes() == one.frames.nbytes for one in kept.values())
        del once, again, other
    finally:
        host("film").Drawing.draw, fill_room.kept_frames = draw, untouched
        kept_room._kept.clear()


def check_separate_nodes_make_the_all_in_one_s_film():
    for count in (5, 2):  # as trained, and thinned out of as many
        same_film_of_separate_nodes(count)


def same_film_of_separate_nodes(count: int) -> None:
    _, clip_vision, vae = loaded()
    patched, control = node("ApplyAdapter", model=loaded()[0], adapter=adapter("fast"))
    keyframes, latents, seeds = node(
        "Keyframes", vae=vae, images=pictures(), adapter=adapter("fast"), seed=SEED, in_betweens=count
    )
    assert all(len(latent["samples"]) == 7 for latent in latents)
    parts = []
    for k, latent, seed in zip(keyframes, latents, seeds, strict=True):
        positive, negative = node(
            "Conditioning", clip_vision=clip_vision, vae=vae, keyframes=k, control_net=control, seed=seed
        )
        (filled,) = node(
            "Sampler", model=patched, positive=positive, negative=negative, latent=latent, seed=seed,
            steps=STEPS, cfg_ends=1.0, cfg_middle=2.0,
        )  # fmt: skip
        parts += node("Decode", vae=vae, latent=filled, keyframes=k)
    film, fps, indices = node("Assemble", images=parts, keyframes=keyframes)
    assert torch.equal(film, whole("fast", multiplier=count + 1)[0])
    assert torch.equal(film[indices], pictures()) and fps == 7


def check_a_contact_sheet_marks_the_films_keyframes():
    whole, _, indices = node(
        "Interpolate",
        **dict(zip(("model", "clip_vision", "vae"), loaded(), strict=True)),
        images=pictures(),
        adapter=adapter("fast"),
        steps=1,
    )
    assert torch.equal(whole[indices], pictures())
    halves = [whole[:6], whole[6:]]  # as separate batches, too
    (sheet,) = node("ContactSheet", images=halves, columns=[0], keyframe_indices=indices)
    (pair,) = node("ContactSheet", images=[whole], columns=[0], compare_with=[whole])
    rows, h, w = -(-len(whole) // 9), *whole.shape[1:3]
    assert sheet.shape == (1, rows * (h + 4) + 4, 9 * (w + 4) + 4, 3), sheet.shape
    assert pair.shape == (1, 2 * rows * (h + 4) + 4, 9 * (w + 4) + 4, 3), pair.shape
    for i in range(len(whole)):
        y, x = i // 9 * (h + 4) + 4, i % 9 * (w + 4) + 4
        assert torch.equal(sheet[0, y : y + h, x : x + w], whole[i]), i
        orange = sheet[0, y - 1, x] - sheet[0, y - 1, x].mean()
        assert (orange.abs().max() > 0.1) == (i in indices), i
    refused("films of one length", node, "ContactSheet", images=[whole], columns=[0], compare_with=halves[:1])


def check_a_cut_between_two_scenes_is_a_gap_to_skip_for_us_and_for_other_packs():
    first, second = ([picture.roll(i, 1) for i in range(3)] for picture in pictures()[:2])
    scenes = torch.stack(first + second)
    states, cuts = node("SceneCuts", images=scenes)
    assert cuts == [2] and (states.frame_indices, states.is_skip_list) == ([2], True)
    assert [states.is_frame_skipped(i) for i in range(5)] == [i == 2 for i in range(5)]
    states, cuts = node("SceneCuts", images=scenes.half(), skip="0, 2")
    assert cuts == [2] and states.frame_indices == [0, 2]
    assert node("SceneCuts", images=scenes[:1])[1] == node("SceneCuts", images=scenes, threshold=1.0)[1] == []
    refused("no frame numbers", node, "SceneCuts", images=scenes, skip="first")
    refused("use 0 to 4", node, "SceneCuts", images=scenes, skip="5")

    class Others:
        """Another pack's: only the listed gaps are filled."""

        frame_indices, is_skip_list = (1, 3), False

        def is_frame_skipped(self, frame_index: int) -> bool:
            return frame_index not in self.frame_indices

    skipped_gaps = sys.modules[f"{PACK}.vfi_core.cuts"].skipped_gaps
    assert skipped_gaps(Others(), 5) == {0, 2, 4} and skipped_gaps(states, 5) == {0, 2}
    refused("does not say which gaps", skipped_gaps, [0, 2], 5)


def check_the_example_pictures_lie_where_load_image_looks():
    classes()
    mine = FOLDER / "input" / "svd_vfi_orbit_first.png"
    bundled = {
        f"svd_vfi_{p.name}" for p in (ROOT / "vfi_core/samples").iterdir() if p.suffix in (".png", ".mp4")
    }
    assert bundled == {p.name for p in mine.parent.iterdir()}, sorted(bundled)
    mine.write_bytes(b"mine")
    offer = sys.modules[f"{PACK}.nodes.samples"].offer_samples
    offer()
    assert mine.read_bytes() == b"mine"  # nothing of the user's is overwritten
    mine.unlink()
    offer()
    assert len(mine.read_bytes()) > 1000
    mine.unlink()
    shutil, kept = sys.modules["shutil"], sys.modules["shutil"].copyfile

    def full(source: Any, target: Any) -> None:
        Path(target).write_bytes(b"half")
        raise OSError("no space left")

    shutil.copyfile = full
    try:
        offer()  # says so in the log, and the pack loads all the same
    finally:
        shutil.copyfile = kept
    assert not list(mine.parent.glob("*.partial")) and not mine.exists()


def check_previews_of_the_miniature_have_its_own_colours():
    loaders = sys.modules[f"{PACK}.nodes.loaders"]
    model, _, vae, _ = node("LoadCheckpoint", ckpt_name=loaders.TINY_NAME, adapter_name="none")
    from latent_preview import Latent2RGBPreviewer

    given = Image.open(ROOT / "vfi_core/samples/orbit_first.png").convert("RGB").resize((128, 128))
    picture = torch.from_numpy(numpy.array(given)) / 255
    latent_format = model.model.latent_format
    latent = latent_format.process_in(host("pictures").encode(vae, picture[None]))
    told = latent_format.latent_rgb_factors, latent_format.latent_rgb_factors_bias
    _, preview, _ = Latent2RGBPreviewer(*told).decode_latent_to_preview_image("JPEG", latent)
    shown = torch.from_numpy(numpy.array(preview.convert("RGB").resize((16, 16)))) / 255
    wanted = torch.from_numpy(numpy.array(given.resize((16, 16)))) / 255
    assert (shown - wanted).abs().mean() < 0.08, (shown - wanted).abs().mean()  # 0.25 by SD's own map


def check_pictures_of_half_precision_and_the_largest_seed_make_a_film():
    largest = 2**64 - 1
    images, (model, clip_vision, vae) = pictures().half(), loaded()
    made = node(
        "Interpolate",
        model=model,
        clip_vision=clip_vision,
        vae=vae,
        images=images,
        adapter=adapter("fast"),
        seed=largest,
        steps=1,
    )[0]
    assert made.dtype == torch.float32 and torch.equal(made[[0, -1]], images[[0, -1]].float())


def check_an_adapter_of_the_past_leaves_memory():
    import gc
    import weakref

    patched, control = node("ApplyAdapter", model=loaded()[0], adapter=adapter("fast"))
    conds = conditioned(control)
    sampled(patched, conds)
    modules = [weakref.ref(control.patcher.model)]
    modules += [weakref.ref(extra.model) for extra in patched.get_additional_models_with_key("svd_vfi")]
    del patched, control, conds
    for _ in range(2):
        gc.collect()
        sys.modules["comfy.model_management"].cleanup_models_gc()
    assert [module() for module in modules] == [None, None]


def check_inputs_are_never_written_to():
    before, samples = pictures().clone(), segment()[1]["samples"].clone()
    adapted("fast")
    film("none", pictures())
    assert torch.equal(before, pictures()) and torch.equal(samples, segment()[1]["samples"])


# Clones


def check_differently_patched_clones_do_not_touch_each_other():
    base = adapted("none")
    fast, paper = adapted("fast"), adapted("paper")
    differ(fast, base)
    differ(fast, paper)
    assert torch.equal(adapted("fast"), fast) and torch.equal(adapted("paper"), paper)
    assert torch.equal(adapted("none"), base)
    assert hooks_on(loaded()[0].model) == 0


def check_a_guider_fills_the_gap_as_our_sampler_does():
    import comfy.samplers

    patched, control = node("ApplyAdapter", model=loaded()[0], adapter=adapter("fast"))
    samplers = dict.fromkeys(METHODS, comfy.samplers.sampler_object("euler"))
    for method in METHODS[2:]:
        (samplers[method],) = node("BidirectionalSampler", method=method)
    assert samplers["bidirectional"].extra_options == node("BidirectionalSampler")[0].extra_options
    for method in METHODS:
        conds = conditioned(control)
        (guider,) = node(
            "Guider",
            model=patched,
            positive=conds[0],
            negative=conds[1],
            cfg_ends=1.0,
            cfg_middle=2.0,
            method=method,
        )
        latent = segment()[1]
        sampling = patched.get_model_object("model_sampling")
        out = guider.sample(
            sys.modules["comfy.sample"].prepare_noise(latent["samples"], SEED),
            latent["samples"],
            samplers[method],
            comfy.samplers.calculate_sigmas(sampling, "karras", STEPS),
            denoise_mask=latent["noise_mask"],
            seed=SEED,
        )
        assert torch.equal(out, sampled(patched, conditioned(control), method=method)), method
    differ(sampled(patched, conditioned(control), method="fused"), adapted("fast"))


def check_drawing_from_both_ends_takes_the_calls_of_the_u_net_it_says():
    patched, control = node("ApplyAdapter", model=loaded()[0], adapter=adapter("fast"))
    calls = []

    def counted(executor, *args, **kwargs):
        calls.append(args[0].shape[0])
        return executor(*args, **kwargs)

    watched = patched.clone()
    watched.add_wrapper_with_key(
        sys.modules["comfy.patcher_extension"].WrappersMP.DIFFUSION_MODEL, "count", counted
    )
    sampled(watched, conditioned(control), method="held")
    held = sum(calls)
    calls_in_all = {"fused": 2 * STEPS, "bidirectional": 2 * STEPS, "motion_prior": 2 * STEPS + 3}
    for method in METHODS[1:]:
        calls.clear()
        sampled(watched, conditioned(control), method=method)
        assert sum(calls) * STEPS == calls_in_all[method] * held, (method, sum(calls), held)


def check_what_cannot_be_turned_round_is_refused():
    patched, control = node("ApplyAdapter", model=loaded()[0], adapter=adapter("fast"))
    conds = conditioned(control)
    refused("use one of held, fused, bidirectional, motion_prior", sampled, patched, conds, method="both")
    bare = [
        [[c, {k: v for k, v in o.items() if k != "svd_vfi_turned"}] for c, o in branch] for branch in conds
    ]
    refused("'SVD VFI Conditioning'", sampled, patched, tuple(bare), method="fused")
    chained = conds[0][0][1]["control"].copy()
    chained.previous_controlnet = chained.copy()
    mixed = [[[c, o | {"control": chained}] for c, o in conds[0]], conds[1]]
    refused("another ControlNet", sampled, patched, tuple(mixed), method="fused")
    guiders = {
        method: node("Guider", model=patched, positive=conds[0], negative=conds[1], method=method)[0]
        for method in METHODS
    }
    euler = sys.modules["comfy.samplers"].sampler_object("euler")
    in_turn, led = (node("BidirectionalSampler", method=method)[0] for method in METHODS[2:])
    refused("use one of bidirectional, motion_prior", node, "BidirectionalSampler", method="held")
    latent = segment()[1]["samples"]
    for given, sampler, words in (
        (guiders["bidirectional"], euler, "'bidirectional' steps in a way of its own"),
        (guiders["motion_prior"], euler, "'motion_prior' steps in a way of its own"),
        (guiders["held"], in_turn, "'SVD VFI Guider' to 'bidirectional'"),
        (guiders["fused"], led, "'SVD VFI Guider' to 'motion_prior'"),
        (guiders["motion_prior"], in_turn, "set to 'bidirectional' and its guider to 'motion_prior'"),
        (guiders["bidirectional"], led, "set to 'motion_prior' and its guider to 'bidirectional'"),
    ):
        refused(
            words, given.sample, torch.randn(latent.shape), latent, sampler, torch.tensor([9.0, 0.0]), seed=1
        )


def check_reversed_motion_acts_on_its_clone_alone_and_leaves_nothing():
    base = adapted("none")
    patched, control = node("ApplyAdapter", model=loaded()[0], adapter=adapter("tuned"))
    assert control is None
    own, _ = node("ApplyAdapter", model=loaded()[0], adapter=adapter("none"))
    before = {k: v.clone() for k, v in loaded()[0].model.state_dict().items()}
    filled = sampled(patched, conditioned(None), method=REVERSED)
    known_exact(filled)
    differ(filled, base)
    differ(filled, sampled(own, conditioned(None), method="fused"))
    assert torch.equal(sampled(patched, conditioned(None), method=REVERSED), filled)
    assert torch.equal(adapted("none"), base)
    assert hooks_on(loaded()[0].model) == 0
    assert all(torch.equal(before[k], v) for k, v in loaded()[0].model.state_dict().items())
    again, _ = node("ApplyAdapter", model=patched, adapter=adapter("none"))
    assert torch.equal(sampled(again, conditioned(None)), base)  # a second application replaces the first
    site = next(m for _, m in patched.get_additional_models_with_key("svd_vfi")[0].model.items())
    handle = site.value.register_forward_pre_hook(fail)
    try:
        sampled(patched, conditioned(None), method=REVERSED)
        raise AssertionError("the fault was swallowed")
    except RuntimeError as error:
        assert "injected" in str(error)
    finally:
        handle.remove()
    assert hooks_on(loaded()[0].model) == 0


def check_reversed_motion_repeats_its_first_half_five_times_each_way():
    patched, _ = node("ApplyAdapter", model=loaded()[0], adapter=adapter("tuned"))
    calls, steps = [], []

    def counted(executor, *args, **kwargs):
        run = args[5]["svd_vfi"]
        calls.append((run.turned, len(args[5]["cond_or_uncond"]), sum(map(len, run.maps.values()))))
        out = executor(*args, **kwargs)
        calls[-1] += (sum(map(len, run.maps.values())),)
        return out

    watched = patched.clone()
    watched.add_wrapper_with_key(
        sys.modules["comfy.patcher_extension"].WrappersMP.DIFFUSION_MODEL, "count", counted
    )
    host("sample").fill(
        watched, *conditioned(None), segment()[1], SEED, 4, (1.0, 2.0), "euler", "karras", REVERSED,
        progress=lambda step, _preview: steps.append(step),
    )  # fmt: skip
    kept = 2 * 16  # branches of guidance times temporal blocks
    assert calls == [(False, 2, 0, kept), (True, 2, kept, 0)] * (4 + 5 * 2), calls
    assert steps == [1, 2, 3, 4]


def check_reversed_motion_goes_on_a_lora_and_takes_the_base_without_it():
    tuned = adapter("tuned")
    lora = with_lora(loaded()[0], "input_blocks.1.1.time_stack.0.attn1.to_v.weight")
    sys.modules["comfy.model_management"].load_models_gpu([lora])  # now it is patched in place
    before, _ = node("ApplyAdapter", model=lora, adapter=tuned)
    plain, _ = node("ApplyAdapter", model=loaded()[0], adapter=tuned)
    changes = [m.get_additional_models_with_key("svd_vfi")[0].model.state_dict() for m in (before, plain)]
    assert all(torch.equal(v, changes[1][k]) for k, v in changes[0].items())
    filled = sampled(before, conditioned(None), method=REVERSED)
    differ(filled, sampled(plain, conditioned(None), method=REVERSED))
    behind = with_lora(plain, "input_blocks.1.1.time_stack.0.attn1.to_v.weight")
    close(sampled(behind, conditioned(None), method=REVERSED), filled)


def check_a_guider_of_reversed_motion_is_a_denoiser_for_any_sampler():
    import comfy.samplers

    patched, _ = node("ApplyAdapter", model=loaded()[0], adapter=adapter("tuned"))
    positive, negative = conditioned(None)
    (guider,) = node("Guider", model=patched, positive=positive, negative=negative, method=REVERSED)
    assert guider.cfg == sum(json.loads((FOLDER / "config.json").read_text()).get("guidance", (1, 3))) / 2
    latent = segment()[1]
    sampling = patched.get_model_object("model_sampling")
    out = guider.sample(
        sys.modules["comfy.sample"].prepare_noise(latent["samples"], SEED),
        latent["samples"],
        comfy.samplers.sampler_object("dpmpp_2m"),
        comfy.samplers.calculate_sigmas(sampling, "karras", STEPS),
        denoise_mask=latent["noise_mask"],
        seed=SEED,
    )
    known_exact(out)
    assert hooks_on(patched.model) == 0


def check_reversed_motion_and_its_method_go_together_or_are_refused():
    patched, _ = node("ApplyAdapter", model=loaded()[0], adapter=adapter("tuned"))
    own, _ = node("ApplyAdapter", model=loaded()[0], adapter=adapter("none"))
    conds = conditioned(None)
    for method in METHODS:
        refused("is for the method 'reversed' alone", sampled, patched, conds, method=method)
    refused("is for the method 'reversed' alone", stock, patched, conds, segment()[1])
    for model in (own, loaded()[0]):
        refused("needs the weights of Generative Inbetweening", sampled, model, conds, method=REVERSED)
    apply = host("apply").apply_adapter
    refused("keyframe attention's", apply, loaded()[0], adapter("tuned"), 0.5)
    refused("no such matrix", apply, loaded("other")[0], adapter("tuned"))
    assert hooks_on(loaded()[0].model) == 0


def check_the_loaders_offer_an_adapter_or_tuned_weights_and_no_other_file():
    loaders = sys.modules[f"{PACK}.nodes.loaders"]
    offered = {path.stem: loaders.is_adapter(path) for path in FOLDER.glob("*.safetensors")}
    names = {name for name, is_one in offered.items() if is_one}
    assert names == {"paper", "fast", "plain", "odd", "trained", "tuned", "framer"}, names


def check_a_second_application_replaces_the_first():
    once, _ = node("ApplyAdapter", model=loaded()[0], adapter=adapter("paper"))
    assert torch.equal(adapted("fast", once), adapted("fast"))


def check_a_deep_copied_clone_computes_the_same():
    import inspect

    patched, control = node("ApplyAdapter", model=loaded()[0], adapter=adapter("fast"))
    if "force_deepcopy" not in inspect.signature(patched.clone).parameters:
        return
    copied = patched.clone(force_deepcopy=True)
    assert copied.model is not patched.model
    conds = conditioned(control)
    assert torch.equal(sampled(copied, conds), sampled(patched, conds))


def check_a_compiled_model_computes_the_same():
    try:
        from comfy_api.torch_helpers import set_torch_compile_wrapper
    except ImportError:
        return
    patched, control = node("ApplyAdapter", model=loaded()[0], adapter=adapter("fast"))
    conds = conditioned(control)
    compiled = patched.clone()
    set_torch_compile_wrapper(model=compiled, backend="eager")
    for _ in range(2):  # the second time everything has been traced
        close(sampled(compiled, conds), sampled(patched, conds))
        plain = loaded()[0].clone()
        set_torch_compile_wrapper(model=plain, backend="eager")
        unadapted = conditioned(None)
        close(sampled(plain, unadapted), sampled(loaded()[0], unadapted))
        early, control = node("ApplyAdapter", model=loaded()[0], adapter=adapter("fast"), end_percent=0.5)
        some = early.clone()
        set_torch_compile_wrapper(model=some, backend="eager")
        close(sampled(some, conditioned(control)), sampled(early, conditioned(control)))
        framer, _ = node("ApplyAdapter", model=loaded()[0], adapter=adapter("framer"))
        other = framer.clone()
        set_torch_compile_wrapper(model=other, backend="eager")
        close(sampled(other, conditioned(None)), sampled(framer, conditioned(None)))
    assert hooks_on(patched.model) == 0


# LoRAs and ControlNets beside


def with_lora(model: Any, layer: str = "input_blocks.1.1.proj_in.weight") -> Any:
    patched = model.clone()
    key = next(k for k in model.model.state_dict() if k.endswith(layer))
    change = torch.randn(model.model.state_dict()[key].shape, generator=torch.Generator().manual_seed(1))
    assert patched.add_patches({key: ("diff", (0.2 * change,))}, 1.0)
    return patched


def check_a_lora_on_the_base_stays_out_of_the_encoder():
    import comfy.model_management

    lora = with_lora(loaded()[0])
    plain = node("ApplyAdapter", model=loaded()[0], adapter=adapter("fast"))[1].patcher.model.state_dict()
    comfy.model_management.load_models_gpu([lora])  # now it is patched in place
    patched, control = node("ApplyAdapter", model=lora, adapter=adapter("fast"))
    mine = control.patcher.model.state_dict()
    assert all(torch.equal(plain[key], mine[key]) for key in plain)
    film_of_lora = sampled(patched, conditioned(control))
    differ(film_of_lora, adapted("fast"))
    behind, control = node("ApplyAdapter", model=loaded()[0], adapter=adapter("fast"))
    close(sampled(with_lora(behind), conditioned(control)), film_of_lora)  # before or after, it is the same


def beside(value: float) -> Any:
    """A ControlNet of somebody else's: adds a constant to the middle block."""
    from comfy.controlnet import ControlBase

    class Constant(ControlBase):
        def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
            previous = None
            if self.previous_controlnet is not None:
                previous = self.previous_controlnet.get_control(
                    x_noisy, t, cond, batched_number, transformer_options
                )
            return self.control_merge(
                {"middle": [torch.full([1, 1, 1, 1], value)], "output": []}, previous, None
            )

        def copy(self):
            c = Constant()
            self.copy_to(c)
            return c

    return Constant()


def check_other_controlnets_chain_before_and_behind():
    patched, control = node("ApplyAdapter", model=loaded()[0], adapter=adapter("fast"))
    alone = conditioned(control)

    def chained(order: str) -> tuple:
        branches = []
        for branch in alone:
            (embedding, options), *_ = branch
            mine, other = options["control"].copy(), beside(0.5)
            first, last = (other, mine) if order == "behind" else (mine, other)
            last.set_previous_controlnet(first)
            branches.append([[embedding, options | {"control": last}]])
        shared = branches[0][0][1]["control"]  # as the host's node does: one object for both
        branches[1][0][1]["control"] = shared
        return tuple(branches)

    before, behind = sampled(patched, chained("before")), sampled(patched, chained("behind"))
    close(before, behind)
    differ(before, sampled(patched, alone))


# Strengths and percents


def check_strength_0_is_absence():
    base = adapted("none")
    patched, control = node(
        "ApplyAdapter", model=loaded()[0], adapter=adapter("plain"), attention_strength=0.0
    )
    close(sampled(patched, conditioned(control, strength=0.0)), base)
    differ(sampled(patched, conditioned(control)), base)
    attending, control = node("ApplyAdapter", model=loaded()[0], adapter=adapter("plain"))
    differ(sampled(attending, conditioned(control, strength=0.0)), base)


def check_percents_open_and_close_the_adapter():
    patched, control = node(
        "ApplyAdapter", model=loaded()[0], adapter=adapter("plain"), start_percent=0.0, end_percent=0.0
    )
    never = sampled(patched, conditioned(control, start_percent=1.0, end_percent=1.0))
    close(never, adapted("none"))
    half = sampled(patched, conditioned(control, start_percent=0.0, end_percent=0.5))
    differ(half, never)
    differ(half, sampled(patched, conditioned(control)))
    early, control = node("ApplyAdapter", model=loaded()[0], adapter=adapter("plain"), end_percent=0.5)
    attention_alone = sampled(early, conditioned(control, strength=0.0))
    differ(attention_alone, never)
    always, control = node("ApplyAdapter", model=loaded()[0], adapter=adapter("plain"))
    differ(attention_alone, sampled(always, conditioned(control, strength=0.0)))


# The encoder's economy


def counted(control: Any) -> list[int]:
    """Rows of every pass of the encoder, in a list that grows."""
    rows: list[int] = []
    control.patcher.model.encoder.register_forward_pre_hook(lambda _m, args: rows.append(len(args[1])))
    return rows


def check_one_pass_serves_both_branches_and_every_kth_step():
    patched, control = node("ApplyAdapter", model=loaded()[0], adapter=adapter("fast"))
    rows = counted(control)
    for refresh, passes in ((1, 6), (2, 3), (4, 2)):
        rows.clear()
        sampled(patched, conditioned(control, encoder_refresh=refresh), steps=6)
        assert rows == [7] * passes, (refresh, rows)
    rows.clear()
    sampled(patched, conditioned(control, encoder_refresh=2), steps=4, sampler_name="heun")
    assert rows == [7] * 2, rows
    rows.clear()  # asks between the steps of the schedule
    sampled(patched, conditioned(control, encoder_refresh=2), steps=6, sampler_name="dpm_fast")
    assert 2 <= len(rows) <= 4, rows
    noisy, control = node("ApplyAdapter", model=loaded()[0], adapter=adapter("paper"))
    rows = counted(control)
    sampled(noisy, conditioned(control))
    assert rows == [14] * STEPS, rows


# Stock samplers


def known_exact(samples: Tensor) -> None:
    latent = segment()[1]
    for i in (0, -1):
        assert torch.equal(samples[i], latent["samples"][i]), (samples[i] - latent["samples"][i]).abs().max()


def check_stock_samplers_fill_and_keep_the_known_frames():
    import comfy.samplers

    patched, control = node("ApplyAdapter", model=loaded()[0], adapter=adapter("fast"))
    conds = conditioned(control)
    before = segment()[1]["samples"].clone()
    for name in comfy.samplers.SAMPLER_NAMES:
        known_exact(stock(patched, conds, segment()[1], name))
    assert torch.equal(before, segment()[1]["samples"])


def check_two_stages_are_one():
    for name in ("fast", "none"):
        patched, control = node("ApplyAdapter", model=loaded()[0], adapter=adapter(name))
        conds, latent = conditioned(control), segment()[1]
        whole = {
            "start_at_step": 0,
            "end_at_step": 4,
            "add_noise": "enable",
            "return_with_leftover_noise": "disable",
        }
        once = stock(patched, conds, latent, **whole)
        first = stock(
            patched, conds, latent, **(whole | {"end_at_step": 2, "return_with_leftover_noise": "enable"})
        )
        second = whole | {"start_at_step": 2, "add_noise": "disable"}
        twice = stock(patched, conds, latent | {"samples": first}, **second)
        known_exact(once)
        known_exact(twice)
        close(once, twice, 1e-3)


def check_split_sigmas_are_one():
    import comfy.samplers
    from comfy_extras import nodes_custom_sampler as custom

    patched, control = node("ApplyAdapter", model=loaded()[0], adapter=adapter("fast"))
    positive, negative = conditioned(control)
    guider = comfy.samplers.CFGGuider(patched)
    guider.set_conds(positive, negative)
    guider.set_cfg(2.0)
    sampler = comfy.samplers.sampler_object("euler")
    sigmas = comfy.samplers.calculate_sigmas(patched.get_model_object("model_sampling"), "karras", 4)

    def run(noise: Any, sigmas: Tensor, latent: dict) -> dict:
        execute = (
            getattr(custom.SamplerCustomAdvanced, "execute", None) or custom.SamplerCustomAdvanced().sample
        )
        out = execute(noise, guider, sampler, sigmas, latent)
        return out.result[0] if hasattr(out, "result") else out[0]

    noise = custom.Noise_RandomNoise(SEED)
    once = run(noise, sigmas, segment()[1])
    first = run(noise, sigmas[:3], segment()[1])
    twice = run(custom.Noise_EmptyNoise(), sigmas[2:], first)
    known_exact(once["samples"])
    known_exact(twice["samples"])
    close(once["samples"], twice["samples"], 1e-3)


# Faults leave nothing behind


def check_after_a_fault_everything_is_as_before():
    patched, control = node("ApplyAdapter", model=loaded()[0], adapter=adapter("fast"))
    conds, base = conditioned(control), adapted("none")
    undisturbed = sampled(patched, conds)
    site = next(m for _, m in patched.get_additional_models_with_key("svd_vfi")[0].model.items())
    handle = site.register_forward_pre_hook(fail)
    try:
        sampled(patched, conds)
        raise AssertionError("the fault was swallowed")
    except RuntimeError as error:
        assert "injected" in str(error)
    finally:
        handle.remove()
    assert hooks_on(patched.model) == 0
    assert torch.equal(sampled(patched, conds), undisturbed) and torch.equal(adapted("none"), base)


def fail(*_: Any) -> None:
    raise RuntimeError("injected")


def check_a_cancel_takes_effect_at_any_step_and_leaves_nothing():
    import comfy.model_management as mm

    patched, control = node("ApplyAdapter", model=loaded()[0], adapter=adapter("fast"))
    conds = conditioned(control)
    undisturbed = sampled(patched, conds)
    for when in range(1, STEPS + 1):
        seen = []

        def progress(step: int, _preview: Any, when=when, seen=seen) -> None:
            seen.append(step)
            if step == when:
                mm.interrupt_current_processing(True)

        cancelled = False
        try:
            host("sample").fill(
                patched, *conds, segment()[1], SEED, STEPS, (1.0, 2.0), "euler", "karras", progress=progress
            )
        except mm.InterruptProcessingException:
            cancelled = True
        assert cancelled and seen == list(range(1, when + 1)), seen
        assert hooks_on(patched.model) == 0
        assert torch.equal(sampled(patched, conds), undisturbed)
    mm.interrupt_current_processing(True)
    try:
        node("Decode", vae=loaded()[2], latent=segment()[1], keyframes=segment()[0])
        raise AssertionError("decoding did not stop")
    except mm.InterruptProcessingException:
        pass


def check_lack_of_memory_in_decoding_is_tried_again():
    pictures_of = host("pictures").decode
    model, latent = loaded()[2].first_stage_model, segment()[1]["samples"]
    whole = pictures_of(loaded()[2], latent)
    for failures, exact in ((1, True), (2, False)):
        left = [failures]
        original = model.decode

        def decode(z: Tensor, left=left, original=original, **kwargs: Any) -> Tensor:
            if left[0]:
                left[0] -= 1
                raise torch.OutOfMemoryError("injected")
            return original(z, **kwargs)

        model.decode = decode
        try:
            again = pictures_of(loaded()[2], latent)
        finally:
            del model.decode
        assert again.shape == whole.shape
        assert torch.equal(again, whole) == exact


def check_decoding_does_not_hang_on_free_memory():
    vae = loaded()[2]
    whole = host("pictures").decode(vae, segment()[1]["samples"])
    vae.patcher.get_free_memory = lambda device: 0
    try:
        assert torch.equal(host("pictures").decode(vae, segment()[1]["samples"]), whole)
    finally:
        del vae.patcher.get_free_memory


def check_the_bundled_miniature_is_offered_by_its_name():
    loaders = sys.modules[f"{PACK}.nodes.loaders"]
    loaders.register_folder()
    assert loaders.checkpoints()[0] == loaders.TINY_NAME
    assert loaders.adapters()[:3] == ["none", *loaders.BUNDLED]
    assert len(loaders.BUNDLED) == 2
    for name, path in loaders.BUNDLED.items():
        model, _, _, made = node("LoadCheckpoint", ckpt_name=loaders.TINY_NAME, adapter_name=name)
        assert made.options == sys.modules[f"{PACK}.vfi_core.adapter"].load_adapter(path).options
        patched, control = node("ApplyAdapter", model=model, adapter=made)  # refused where a shape differs
        assert patched is not model and control is not None


def check_the_miniature_s_conditions_need_no_adapter():
    model, clip_vision, vae = loaded()
    config = json.loads((FOLDER / "config.json").read_text())
    (keyframes,), _, _ = node("Keyframes", vae=vae, images=pictures()[:2])
    assert {name: keyframes.training[name] for name in config} == config
    given = {"model": model, "clip_vision": clip_vision, "vae": vae, "images": pictures()[:2], "steps": STEPS}
    film, fps, _ = node("Interpolate", **given)
    assert (len(film), fps) == (config["frames"], config["fps"])


# Refusals, one sentence each


def check_wrong_models_and_files_are_refused():
    apply = host("apply").apply_adapter
    model, clip_vision, vae = loaded()
    refused("made for another base", apply, loaded("other")[0], adapter("fast"))

    class Flux:
        model = torch.nn.Linear(1, 1)

    refused("not Stable Video Diffusion", apply, Flux(), adapter("fast"))
    load = host("checkpoint").load_checkpoint
    refused("an adapter for in-betweening", load, FOLDER / "fast.safetensors")
    refused("gone", load, FOLDER / "nowhere.safetensors")
    loaders = sys.modules[f"{PACK}.nodes.loaders"]
    loaders.BUNDLED["a checkpoint"] = FOLDER / "toy.safetensors"
    try:
        refused("a Stable Video Diffusion checkpoint", loaders.open_adapter, "a checkpoint")
    finally:
        del loaders.BUNDLED["a checkpoint"]

    class ImageVAE:
        first_stage_model = torch.nn.Linear(1, 1)

    refused("without a temporal decoder", node, "Keyframes", vae=ImageVAE(), images=pictures())
    refused("not the condition encoder", conditioned, beside(1.0))


def check_wrong_keyframes_are_refused():
    vae = loaded()[2]
    refused("at least two", node, "Keyframes", vae=vae, images=pictures()[:1])
    refused(
        "of one size", node, "Keyframes", vae=vae, images=pictures(), last_image=torch.zeros(1, 32, 64, 3)
    )
    refused("must increase", node, "Keyframes", vae=vae, images=pictures()[:2], positions="0 0")
    refused("starts with it at 0", node, "Keyframes", vae=vae, images=pictures()[:2], positions="2, 9")
    refused("one for each", node, "Keyframes", vae=vae, images=pictures()[:2], positions="0, 4, 9")
    refused("no frame between", node, "Keyframes", vae=vae, images=pictures()[:2], positions="0, 1")
    refused("no frame numbers", node, "Keyframes", vae=vae, images=pictures()[:2], positions="0, x")


def check_what_does_not_belong_together_is_refused():
    patched, control = node("ApplyAdapter", model=loaded()[0], adapter=adapter("fast"))
    conds = conditioned(control)
    bare = tuple(
        [[embedding, {k: v for k, v in options.items() if k != "svd_vfi"}]]
        for ((embedding, options),) in conds
    )
    refused("has no keyframes", sampled, patched, bare)
    latent = segment()[1]
    longer = {"samples": torch.zeros(9, *latent["samples"].shape[1:])}
    refused("take both from the same", stock, patched, conds, longer)
    elsewhere = latent | {"noise_mask": latent["noise_mask"].roll(1, 0)}
    refused("take both from the same", stock, patched, conds, elsewhere)
    refused("without its condition encoder", sampled, patched, conditioned(None))
    refused("not its keyframe attention", sampled, loaded()[0], conds)
    other, _ = node("ApplyAdapter", model=loaded()[0], adapter=adapter("paper"))
    refused("without its condition encoder", sampled, other, conds)
    refused("connect its CONTROL_NET", control.pre_run, loaded()[0].model, lambda p: p)
    keyframes = segment()[0]
    refused("the same keyframes", node, "Decode", vae=loaded()[2], latent=longer, keyframes=keyframes)
    refused("segments", node, "Assemble", images=[], keyframes=[keyframes])


def check_context_windows_are_refused():
    try:
        import comfy.context_windows as windows
    except ImportError:
        return
    patched, control = node("ApplyAdapter", model=loaded()[0], adapter=adapter("fast"))
    positive, negative = conditioned(control)
    windowed = patched.clone()
    windowed.model_options["context_handler"] = windows.IndexListContextHandler(
        context_schedule=windows.get_matching_context_schedule("standard_static"),
        fuse_method=windows.get_matching_fuse_method("pyramid"),
        context_length=5,
        context_overlap=2,
        dim=0,
    )
    try:
        refused("context windows", sampled, windowed, (positive, negative))
    except RuntimeError as error:  # 0.3.64's windows cannot take a clip in the batch at all
        assert "must match the size" in str(error)


def check_a_stock_sampler_s_graph_without_an_adapter_holds_both_frames():
    patched, control = node("ApplyAdapter", model=loaded()[0], adapter=adapter("none"))
    assert control is None
    known_exact(stock(patched, conditioned(None), segment()[1]))


# Framer's weights


def check_framer_s_clone_leaves_the_base_as_it_was():
    base, keys = adapted("none"), loaded()[0].patches.copy()
    mine = adapted("framer")
    differ(mine, base)
    known_exact(mine)
    assert torch.equal(adapted("none"), base) and torch.equal(adapted("framer"), mine)
    assert loaded()[0].patches == keys and hooks_on(loaded()[0].model) == 0


def check_another_application_takes_framer_away():
    once, control = node("ApplyAdapter", model=loaded()[0], adapter=adapter("framer"))
    assert control is None and once.patches
    conv = next(weight for key, weight in once.model.state_dict().items() if "input_blocks.0.0.weight" in key)
    assert conv.shape[1] == 8
    for name in ("none", "fast", "framer"):
        assert torch.equal(adapted(name, once), adapted(name)), name
    patched, _ = node("ApplyAdapter", model=with_lora(once, FRAMER_S_OWN), adapter=adapter("none"))
    close(sampled(patched, conditioned(None)), adapted("none", with_lora(loaded()[0], FRAMER_S_OWN)))


FRAMER_S_OWN = "input_blocks.1.1.time_stack.0.attn1.to_v.weight"  # one of those it brings


def check_loras_before_and_behind_framer_are_one():
    for layer in (FRAMER_S_OWN, "input_blocks.1.1.proj_in.weight"):
        before, _ = node("ApplyAdapter", model=with_lora(loaded()[0], layer), adapter=adapter("framer"))
        behind, _ = node("ApplyAdapter", model=loaded()[0], adapter=adapter("framer"))
        film_of_lora = sampled(before, conditioned(None))
        differ(film_of_lora, adapted("framer"))
        close(sampled(with_lora(behind, layer), conditioned(None)), film_of_lora)


def check_stock_samplers_and_guiders_show_framer_what_ours_do():
    patched, _ = node("ApplyAdapter", model=loaded()[0], adapter=adapter("framer"))
    conds, latent = conditioned(None), segment()[1]
    ours = sampled(patched, conds, cfg_ends=2.0)
    assert torch.equal(stock(patched, conds, latent), ours)
    for name in ("dpmpp_2m", "heun", "uni_pc", "lcm"):
        known_exact(stock(patched, conds, latent, name))
    whole = {"start_at_step": 0, "add_noise": "enable", "return_with_leftover_noise": "enable"}
    first = stock(patched, conds, latent, **(whole | {"end_at_step": 2}))
    rest = whole | {"start_at_step": 2, "end_at_step": 4, "add_noise": "disable"}
    close(
        stock(patched, conds, latent | {"samples": first}, **rest),
        stock(patched, conds, latent, **(whole | {"end_at_step": 4})),
        1e-3,
    )


def check_framer_s_branches_go_in_one_call_and_its_hook_goes_with_it():
    patched, _ = node("ApplyAdapter", model=loaded()[0], adapter=adapter("framer"))
    calls = []

    def seen(executor, x, *args, **kwargs):
        calls.append((len(x), args[1].shape[1], hooks_on(executor.class_obj)))
        return executor(x, *args, **kwargs)

    watched = patched.clone()
    watched.add_wrapper_with_key(sys.modules["comfy.patcher_extension"].WrappersMP.DIFFUSION_MODEL, "z", seen)
    sampled(watched, conditioned(None))
    assert calls == [(14, 2, 1)] * STEPS, calls
    module = patched.model.diffusion_model.out
    handle = module.register_forward_pre_hook(fail)
    try:
        sampled(patched, conditioned(None))
        raise AssertionError("the fault was swallowed")
    except RuntimeError as error:
        assert "injected" in str(error)
    finally:
        handle.remove()
    assert hooks_on(patched.model) == 0


def check_framer_reads_the_last_keyframe_in_latents_and_tokens():
    patched, _ = node("ApplyAdapter", model=loaded()[0], adapter=adapter("framer"))
    (((embedding, options),), negative) = conditioned(None)
    whole = sampled(patched, ([[embedding, options]], negative))
    latents, embedded = options["svd_vfi_shown"]
    last = torch.tensor([1.0, 3.0])
    for changed in ((latents * last.view(2, 1, 1, 1), embedded), (latents, embedded * last.view(2, 1))):
        differ(sampled(patched, ([[embedding, options | {"svd_vfi_shown": changed}]], negative)), whole)
    assert not any(part.any() for part in negative[0][1]["svd_vfi_shown"])


def check_what_does_not_go_with_framer_is_refused():
    apply = host("apply").apply_adapter
    refused("made for another base", apply, loaded("other")[0], adapter("framer"))
    refused("has none; leave them at 1", apply, loaded()[0], adapter("framer"), 0.5)
    patched, _ = node("ApplyAdapter", model=loaded()[0], adapter=adapter("framer"))
    positive, negative = conditioned(None)
    bare = [[c, {k: v for k, v in o.items() if k != "svd_vfi_shown"}] for c, o in negative]
    refused("connect both outputs", sampled, patched, (positive, bare))
    _, control = node("ApplyAdapter", model=loaded()[0], adapter=adapter("fast"))
    refused("but this MODEL not", sampled, patched, conditioned(control))


def check_framer_s_file_is_offered_from_either_folder_and_its_licence_told():
    import logging
    import shutil

    import folder_paths

    loaders = sys.modules[f"{PACK}.nodes.loaders"]
    loaders.register_folder()
    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())
    logger, level = logging.getLogger(), logging.getLogger().level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)  # as the host's own
    for name in loaders.FOLDERS:
        place = FOLDER / "models" / name
        place.mkdir(parents=True)
        shutil.copyfile(FOLDER / "framer.safetensors", place / f"{name}_framer.safetensors")
        shutil.copyfile(FOLDER / "toy.safetensors", place / f"{name}_toy.safetensors")
        folder_paths.add_model_folder_path(name, str(place))
    try:
        offered = loaders.adapters()
        for name in loaders.FOLDERS:
            assert f"{name}_framer.safetensors" in offered and f"{name}_toy.safetensors" not in offered
            made = node("LoadAdapter", adapter_name=f"{name}_framer.safetensors")[0]
            assert made.training["frames"] == 14
            assert classes()["SVDVFILoadAdapter"].fingerprint_inputs(f"{name}_framer.safetensors")
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        for name in loaders.FOLDERS:
            folder_paths.folder_names_and_paths[name][0].remove(str(FOLDER / "models" / name))
    assert sum("academic" in line for line in told) == 2, told


# Names and help


def own_words(schema: Any) -> dict[str, Any]:
    """A schema as an entry of nodeDefs.json, which calls outputs by their index."""

    def entry(name: str, tooltip: str | None) -> dict[str, str]:
        return {"name": name} | ({"tooltip": tooltip} if tooltip else {})

    return {
        "display_name": schema.display_name,
        "description": schema.description,
        "inputs": {i.id: entry(i.display_name or i.id, i.tooltip) for i in schema.inputs},
        "outputs": {
            str(k): entry(o.display_name or o.io_type, o.tooltip) for k, o in enumerate(schema.outputs)
        },
    }


def leaves(tree: dict[str, Any], path: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in tree.items():
        place = f"{path}/{key}"
        found |= leaves(value, place) if isinstance(value, dict) else {place: value}
    return found


def check_every_language_names_what_the_schemas_name():
    own = leaves({name: own_words(c.define_schema()) for name, c in classes().items()})
    told = {
        path.parent.name: leaves(json.loads(path.read_text(encoding="utf-8")))
        for path in ROOT.glob("locales/*/nodeDefs.json")
    }
    assert {"en", "zh"} <= told.keys(), sorted(told)
    for language, words in told.items():
        assert words.keys() == own.keys(), (language, sorted(words.keys() ^ own.keys()))
        for place, text in words.items():
            # ComfyUI's frontend takes {, }, @ and | for a syntax of its own
            assert text.strip() and not set(text) & set("{}@|"), (language, place, text)
    assert told["en"] == own, [place for place in own if told["en"][place] != own[place]]


def check_every_node_has_a_help_page_that_names_its_inputs_and_outputs():
    docs = ROOT / sys.modules[PACK].WEB_DIRECTORY / "docs"
    pages = {path.stem: path.read_text(encoding="utf-8") for path in docs.glob("*.md")}
    assert pages.keys() == classes().keys(), sorted(pages.keys() ^ classes().keys())
    for name, page in pages.items():
        schema = classes()[name].define_schema()
        rows = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
        named = [i.id for i in schema.inputs] + [o.display_name or o.io_type for o in schema.outputs]
        assert rows == named, (name, rows, named)
        assert page.startswith(f"# {schema.display_name}\n"), name


def main(comfy: str, folder: str) -> None:
    global FOLDER
    FOLDER = Path(folder)
    sys.path.insert(0, comfy)
    from comfy.cli_args import args

    args.cpu = True
    import folder_paths

    import nodes  # noqa: F401 the host's, as ComfyUI starts: comfy_extras look for it

    (FOLDER / "input").mkdir()
    folder_paths.set_input_directory(str(FOLDER / "input"))  # the pack lays its example pictures there
    load_pack()
    errors, checks = {}, {n: f for n, f in globals().items() if n.startswith("check_")}
    with torch.inference_mode():
        for name, check in checks.items():
            try:
                check()
            except Exception:
                errors[name] = traceback.format_exc()
    (FOLDER / "inside.json").write_text(json.dumps({name: errors.get(name) for name in checks}))


if __name__ == "__main__":
    main(*sys.argv[1:])
