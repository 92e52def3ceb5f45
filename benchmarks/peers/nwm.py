"""Compare Navigation World Models' program with ours, with the same weights.

The peer's transformer, diffusion and roll-out run as they are, with `diffusers`' autoencoder. Other imports of its
scripts are replaced: three layers of timm, and modules of its own that read data sets and start processes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import re
import time
import types
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from dreamenv.backbones.denoising.sampling import _NOISE_STREAM, FrameSampler
from dreamenv.backbones.denoising.world import _LATENT_STREAM
from dreamenv.benchmarks.common import interleaved
from dreamenv.benchmarks.peers.common import Where, peer_code, randomised, relative_difference, replaced_packages
from dreamenv.benchmarks.peers.layers import Attention, Mlp, PatchEmbed
from dreamenv.denoisers.base import DenoiserInput, DenoiserShape
from dreamenv.diffusion.loss import add_noise, denoising_error, variance_error
from dreamenv.diffusion.preconditioning import Preconditioning
from dreamenv.diffusion.sampler import DDIM, Ancestral, DPMSolver
from dreamenv.errors import UnavailableError
from dreamenv.importers.adapter import Options, load_weights
from dreamenv.importers.nwm import DENOISER_NAMES, NWMAdapter
from dreamenv.randomness import normal

__all__ = ["parity", "speed"]

_SMALL = {"width": 96, "depth": 3, "heads": 3, "side": 64, "channels": (32, 32, 64, 64)}
_PUBLISHED = {"width": 1152, "depth": 28, "heads": 16, "side": 224, "channels": (128, 256, 512, 512)}  # CDiT-XL/2
_LIGHT = {**_PUBLISHED, "width": 384, "depth": 12, "heads": 6}  # CDiT-S/2
_CONTEXT, _ROWS, _STEPS, _FEW = 4, 2, 250, 25
_ROLLOUTS = {"small": (3, _STEPS), "published": (2, 10)}  # frames, and sampling steps for each
_LOW, _HIGH = torch.tensor([-2.5, -4.0]), torch.tensor([5.0, 4.0])  # of the peer's statistics of moves


def parity(peer: Path, *, full: bool = False) -> list[dict[str, Any]]:
    """Compare forward passes, the steps that are visited, and a rollout.

    At the published size ours shares the peer's 4 GB of tensors, and a rollout has few of its slow sampling steps.
    """
    rows = []
    for name, sizes in (("small", _SMALL), *((("published", _PUBLISHED),) if full else ())):
        with _peer(peer, sizes) as (network, codec, modules):
            counts = [sum(one.numel() for one in part.parameters()) for part in (network, codec)]
            model = (_ours if sizes is _SMALL else _sharing)(network, codec, sizes)
            differences = {"transformer": (_forward(network, model), counts[0])}
            for what, difference in _coded(codec, model).items():
                differences[f"autoencoder, {what}"] = (difference, counts[1])
            if sizes is _SMALL:
                differences["loss of a step, with the variance's part"] = (_loss(network, model, modules), counts[0])
                differences[f"steps visited, {_STEPS} of 1000"] = (_visited(model, modules), 0)
            frames, steps = _ROLLOUTS[name]
            differences[f"rollout of {frames} frames, {steps} steps each"] = (
                _rollout(network, codec, model, modules, frames, steps), sum(counts)
            )  # fmt: skip
        rows += [
            {"what": what, "size": name, "parameters": count, "relative_difference": difference}
            for what, (difference, count) in differences.items()
        ]
    return rows


def speed(peer: Path, *, full: bool = False, where: Where | None = None, rounds: int = 5) -> dict[str, Any]:
    """Time the peer's roll-out and ours, one row at a time.

    Args:
        peer: its folder.
        full: CDiT-S/2 with the published autoencoder at 224 x 224, of which a step of the transformer and what
            the autoencoder does per frame are timed apart, since 250 steps take minutes; else whole frames of a small
            one.
        where: the device, and whether ours is compiled, too. On a GPU theirs computes in bfloat16.
        rounds: of timing.

    Returns:
        Comparisons by what was timed, in units per second; also of fewer steps, and how alike the pictures are then.
    """
    where = where or Where()
    with _peer(peer, _LIGHT if full else _SMALL) as (network, codec, modules):
        model = _ours(network, codec, _LIGHT if full else _SMALL)
        network, codec = network.to(where.device), codec.to(where.device)
        if full:
            return _apart(network, codec, where.variants(model), where, rounds)
        quick = _changed(model, sampler=DPMSolver(steps=_FEW, init_noise_sigma=1.0)).to(where.device)
        ways = {**where.variants(model), "dpm": quick}
        steps = {"peer": _their_step(network, codec, modules, model, where.device)}
        steps.update({name: _our_step(one, where.device) for name, one in ways.items()})
        timed = interleaved({name: where.timed(step) for name, step in steps.items()}, rounds=rounds)
        return {
            f"frames of {_STEPS} steps; dpm: of {_FEW}": timed.to_json(),
            "picture difference, decibels": _picture_differences(model, where.device),
        }


@contextlib.contextmanager
def _peer(peer: Path, sizes: dict[str, Any]) -> Iterator[tuple[Any, Any, Any]]:
    """Make the peer's networks with random weights; its modules can be used within the context."""
    if find_spec("diffusers") is None:
        raise UnavailableError("NWM", "the package diffusers is not installed", "pip install diffusers")
    import diffusers

    layers = types.ModuleType("timm.models.vision_transformer")
    layers.PatchEmbed, layers.Attention, layers.Mlp = PatchEmbed, Attention, Mlp  # type: ignore[attr-defined]
    own = {name: types.ModuleType(name) for name in ("misc", "datasets", "distributed", "yaml")}
    own["datasets"].EvalDataset = own["distributed"].init_distributed = None  # type: ignore[attr-defined]
    missing = {name: types.ModuleType(name) for name in ("timm", "timm.models")}
    with replaced_packages({**missing, layers.__name__: layers, **own}), peer_code(peer):
        diffusion: Any = importlib.import_module("diffusion")
        isolated_nwm_infer: Any = importlib.import_module("isolated_nwm_infer")
        models: Any = importlib.import_module("models")

        network = models.CDiT(
            input_size=sizes["side"] // 8, context_size=_CONTEXT, hidden_size=sizes["width"], depth=sizes["depth"],
            num_heads=sizes["heads"],
        )  # fmt: skip
        levels = len(sizes["channels"])
        autoencoder: Any = diffusers.AutoencoderKL  # whose types are its own business
        codec = autoencoder(
            block_out_channels=sizes["channels"], layers_per_block=2, latent_channels=4, norm_num_groups=32,
            down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
        )  # fmt: skip
        yield randomised(network, 1), _rescaled(randomised(codec, 2)), (diffusion, isolated_nwm_infer)


def _rescaled(codec: Any) -> Any:
    """Scale latents to a standard deviation of about 1 / 0.18215, and lower their variance, as the published codec."""
    with torch.no_grad():
        codec.quant_conv.bias[4:] -= 4.0
    return codec


def _ours(network: nn.Module, codec: nn.Module, sizes: dict[str, Any]) -> Any:
    architecture = NWMAdapter().read([codec.state_dict(), network.state_dict()], Options(heads=sizes["heads"]))
    return load_weights(architecture)


def _sharing(network: nn.Module, codec: nn.Module, sizes: dict[str, Any]) -> Any:
    """Load the weights as `_ours`, but share the transformer's tensors instead of copying them."""
    tensors = network.state_dict()
    shallow = {name: one for name, one in tensors.items() if re.match(r"(?!blocks\.)|blocks\.0\.", name)}
    model: Any = load_weights(NWMAdapter().read([codec.state_dict(), shallow], Options(heads=sizes["heads"])))
    config = dataclasses.replace(model.config.denoiser, depth=sizes["depth"])
    with torch.device("meta"):
        deep = config.build(DenoiserShape(frame_shape=model.latent_shape, discrete=tuple(model.action.discrete)))
    deep.still = model.denoiser.still
    deep.load_state_dict(DENOISER_NAMES.to_ours(tensors)[0], strict=True, assign=True)
    model.denoiser = deep.eval()
    return model


def _changed(model: Any, **changes: Any) -> Any:
    """Return a model of the same weights with other settings."""
    other: Any = dataclasses.replace(model.config, **changes).build(model.spec)
    other.load_state_dict(model.state_dict())
    return other.eval()


@torch.no_grad()
def _forward(network: Any, model: Any) -> float:
    """Predict with different noise levels, moves and times ahead in two rows."""
    generator = torch.Generator().manual_seed(0)
    shape = model.latent_shape
    noisy, context = (torch.randn(_ROWS, n, *shape, generator=generator) for n in (1, _CONTEXT))
    time, shift = torch.tensor([[731.0], [4.0]]), torch.tensor([[1.0], [16.0]])
    moves = torch.randn(_ROWS, 1, 3, generator=generator)
    theirs = network(noisy[:, 0], time[:, 0], _scaled(moves * shift[..., None])[:, 0], context, shift[:, 0] / 128)
    past = DenoiserInput(context, torch.zeros(_ROWS, _CONTEXT), torch.zeros(_ROWS, _CONTEXT, 3))
    cache = model.denoiser.update_cache(model.denoiser.init_cache(context[:, 0]), past)
    ours = model.denoiser.forward_cached(cache, DenoiserInput(noisy, time, model.action(moves), time_shift=shift))
    return relative_difference(ours[:, 0], theirs)


@torch.no_grad()
def _coded(codec: Any, model: Any) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    pictures = 2 * torch.rand(1, *model.spec.frame_shape, generator=generator) - 1
    latents = torch.randn(1, *model.latent_shape, generator=generator)
    mean, _ = model.codec.autoencoder.encode(pictures)
    decoded = model.codec.autoencoder.decode(latents)
    return {
        "encoding": relative_difference(mean, codec.encode(pictures).latent_dist.mean),
        "decoding": relative_difference(decoded, codec.decode(latents).sample),
    }


def _visited(model: Any, modules: Any) -> float:
    theirs = modules[0].create_diffusion(str(_STEPS)).timestep_map
    ours = model.config.process.sampling_levels(_STEPS).flip(0)[1:].long().tolist()
    return float(ours != theirs)


@torch.no_grad()
def _loss(network: Any, model: Any, modules: Any) -> float:
    """Compare the training losses of the last frame of a window, at different noise levels and moves."""
    generator, rows = torch.Generator().manual_seed(4), 4
    latents, noise = (torch.randn(rows, _CONTEXT + 1, *model.latent_shape, generator=generator) for _ in range(2))
    moves, level = torch.randn(rows, 1, 3, generator=generator), torch.tensor([[999.0], [600.0], [40.0], [1.0]])
    theirs = modules[0].create_diffusion("").training_losses(
        network, latents[:, -1], level[:, 0].long(), noise=noise[:, -1],
        model_kwargs={"y": _scaled(moves)[:, 0], "x_cond": latents[:, :-1], "rel_t": torch.full((rows,), 1 / 128)},
    )["loss"]  # fmt: skip
    levels, acted = level.expand(-1, _CONTEXT + 1), model.action(moves).expand(-1, _CONTEXT + 1, -1)
    preconditioning = Preconditioning(model.config.process, model.config.target)
    noisy = add_noise(model.config.process, latents, noise, levels)
    clean = DenoiserInput(latents, torch.zeros_like(levels), acted)
    output, predicted = model.denoiser.forward_sequence(clean, DenoiserInput(noisy, levels, acted)).chunk(2, dim=2)
    ours = denoising_error(preconditioning, output, latents, noise, levels)
    ours = ours + variance_error(preconditioning, output, (predicted + 1) / 2, latents, noise, levels)
    return relative_difference(ours[:, -1], theirs)


@torch.no_grad()
def _rollout(network: Any, codec: Any, model: Any, modules: Any, frames: int, steps: int) -> float:
    """Dream with the same noise, also of the latents of the past, which the peer encodes again for every frame."""
    sampler = Ancestral(steps=steps, variance="learned", init_noise_sigma=1.0)
    model.config = dataclasses.replace(model.config, sampler=sampler)
    model._sampler = FrameSampler(model._presentation, sampler, model.config.schedule, model.config.guidance)
    generator = torch.Generator().manual_seed(1)
    past = torch.rand(_ROWS, _CONTEXT, *model.spec.frame_shape, generator=generator)
    moves = torch.randn(_ROWS, _CONTEXT - 1 + frames, 1, 3, generator=generator)
    state = model.start(past[:, 0], torch.arange(_ROWS))
    state = model.observe(state, moves[:, : _CONTEXT - 1, 0], past[:, 1:])
    key, zero = state["rng_key"], torch.zeros(_ROWS, dtype=torch.int64)

    def noise_of(counter: int, stream: int) -> Tensor:
        return normal(key, zero + counter, model.latent_shape, stream=stream)

    of_latents = [noise_of(0, _LATENT_STREAM + 1), *(noise_of(i, _LATENT_STREAM) for i in range(_CONTEXT - 1))]
    shown, worst = 2 * past - 1, 0.0
    for frame in range(_CONTEXT - 1, _CONTEXT - 1 + frames):
        noises = iter([torch.stack(of_latents, dim=1).flatten(0, 1)] + [
            noise_of(frame, _NOISE_STREAM + number) for number in range(steps + 1)
        ])  # fmt: skip
        with (
            mock.patch.object(torch, "randn", lambda *_, noises=noises, **__: next(noises)),
            mock.patch.object(torch, "randn_like", lambda *_, noises=noises, **__: next(noises)),
        ):
            theirs = _peer_frame(network, codec, modules, shown, _scaled(moves[:, frame]), steps)
        imagined, state = model.imagine(state, moves[:, frame])
        worst = max(worst, relative_difference(2 * imagined.frames[:, 0] - 1, theirs))
        shown = torch.cat((shown[:, 1:], theirs[:, None]), dim=1)
        of_latents = [*of_latents[1:], noise_of(frame, _LATENT_STREAM)]
    return worst


def _peer_frame(network: Any, codec: Any, modules: Any, shown: Tensor, moves: Tensor, steps: int) -> Tensor:
    """One frame (b, c, h, w) in [-1, 1] as the peer's rollout samples it, after scaled moves."""
    diffusion, infer = modules
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of autocast for an accelerator that is not there
        frame: Tensor = infer.model_forward_wrapper(
            (network, diffusion.create_diffusion(str(steps)), codec), shown, moves, 1, shown.shape[-1] // 8,
            device=shown.device, num_cond=_CONTEXT,
        )  # fmt: skip
    return frame


def _scaled(moves: Tensor) -> Tensor:
    """Moves (..., 3) as the peer's data sets scale them."""
    return torch.cat((2 * (moves[..., :2] - _LOW) / (_HIGH - _LOW) - 1, moves[..., 2:]), dim=-1)


@torch.no_grad()
def _apart(network: Any, codec: Any, ways: dict[str, Any], where: Where, rounds: int) -> dict[str, Any]:
    """Time a step, and the autoencoder's part of a frame: the peer encodes all past frames again, we the newest."""
    model, device = ways["dreamenv"], where.device
    state = _start(model, device)
    frame = torch.rand(1, 1, *model.spec.frame_shape, device=device)
    noisy, moves = torch.randn(1, 1, *model.latent_shape, device=device), torch.randn(1, 1, 3, device=device)
    time = torch.full_like(moves[..., 0], 500)
    given = DenoiserInput(noisy, time, moves, time_shift=torch.ones_like(time))
    ahead = torch.full_like(moves[0, :, 0], 1 / 128)

    def precision() -> Any:
        return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")

    def their_step() -> None:
        with precision():
            network(noisy[:, 0], time[:, 0], moves[:, 0], state["frames"], ahead)

    def their_coding() -> None:
        with precision():
            codec.encode((2 * frame - 1)[0].expand(_CONTEXT, -1, -1, -1)).latent_dist.sample()
            codec.decode(noisy[:, 0] / model.config.codec.latent_scale)

    def our_step(one: Any) -> Callable[[], None]:
        def run() -> None:
            with one._precision(device):
                one.denoiser.forward_cached(state, given)

        return run

    def our_coding(one: Any) -> Callable[[], None]:
        def run() -> None:
            one._encode(frame, state)
            one._decode(noisy)

        return run

    results: dict[str, Any] = {}
    seconds: dict[str, dict[str, float]] = {}
    for what, theirs, ours in (("steps", their_step, our_step), ("codings of a frame", their_coding, our_coding)):
        runs = {"peer": theirs, **{name: ours(one) for name, one in ways.items()}}
        timed = interleaved({name: where.timed(run) for name, run in runs.items()}, rounds=rounds)
        results[what] = timed.to_json()
        if device.type == "cpu":
            seconds[what] = {name: _processor_seconds(run) for name, run in runs.items()}
        else:
            seconds[what] = {name: 1 / timing.rate for name, timing in timed.timings.items()}
    clock = "processor seconds" if device.type == "cpu" else "seconds"
    results[clock] = seconds
    for steps in (_STEPS, _FEW):
        results[f"{clock} per frame of {steps} steps, from both"] = {
            name: steps * one + seconds["codings of a frame"][name] for name, one in seconds["steps"].items()
        }
    return results


def _processor_seconds(step: Callable[[], None], rounds: int = 3) -> float:
    """Return the minimum processor time of a few runs, on one thread."""
    seconds = []
    for _ in range(rounds):
        began = time.process_time()
        step()
        seconds.append(time.process_time() - began)
    return min(seconds)


def _their_step(network: Any, codec: Any, modules: Any, model: Any, device: torch.device) -> Callable[[], None]:
    shown = 2 * torch.rand(1, _CONTEXT, *model.spec.frame_shape, device=device) - 1

    @torch.no_grad()
    def step() -> None:
        nonlocal shown
        frame = _peer_frame(network, codec, modules, shown, torch.randn(1, 1, 3), _STEPS)
        shown = torch.cat((shown[:, 1:], frame[:, None]), dim=1)

    return step


def _our_step(model: Any, device: torch.device) -> Callable[[], None]:
    state = _start(model, device)

    @torch.no_grad()
    def step() -> None:
        nonlocal state
        _, state = model.imagine(state, torch.randn(1, 1, 3, device=device))

    return step


@torch.no_grad()
def _start(model: Any, device: torch.device) -> Any:
    generator = torch.Generator().manual_seed(3)
    frames = torch.rand(1, _CONTEXT, *model.spec.frame_shape, generator=generator).to(device)
    moves = torch.randn(1, _CONTEXT - 1, 3, generator=generator).to(device)
    return model.observe(model.start(frames[:, 0], torch.arange(1, device=device)), moves, frames[:, 1:])


@torch.no_grad()
def _picture_differences(model: Any, device: torch.device) -> dict[str, float]:
    """Return how alike the frames are that different samplers make of the same noise and past, in decibels.

    Of random weights this says how the samplers differ, and nothing about the frames of trained ones.
    """
    move = torch.tensor([[[1.0, 0.0, 0.1]]], device=device)
    frames = {}
    learned = Ancestral(steps=_STEPS, variance="learned", init_noise_sigma=1.0)
    for name, sampler, seed in (
        ("learned", learned, 0), ("dpm", DPMSolver(steps=_FEW, init_noise_sigma=1.0), 0),
        ("ddim", DDIM(steps=_STEPS, init_noise_sigma=1.0), 0), ("other seed", learned, 1), ("bfloat16", learned, 0),
    ):  # fmt: skip
        other = _changed(model, sampler=sampler).to(device)
        if name == "bfloat16":
            other.store_in_bfloat16()
        state = _start(model, device)
        state["rng_key"] = state["rng_key"] + seed
        frames[name] = other.imagine(state, move)[0].frames
    pairs = {
        f"dpm {_FEW}, ancestral {_STEPS}": ("dpm", "learned"),
        f"dpm {_FEW}, ddim {_STEPS}": ("dpm", "ddim"),
        f"ancestral {_STEPS}, with other noise": ("learned", "other seed"),
        f"ancestral {_STEPS}, in bfloat16": ("learned", "bfloat16"),
    }
    return {
        name: float(-10 * (frames[a] - frames[b]).square().mean().clamp_min(1e-12).log10())
        for name, (a, b) in pairs.items()
    }
