"""Compare Diffusion Forcing's public code with ours, with the same random weights.

The peer is the main branch of github.com/buoyancy99/diffusion-forcing, of which only the network and its sampling are
imported. It needs ``rotary-embedding-torch`` and diffusers. Other dependencies are replaced: omegaconf's configuration
by a dictionary, and the properties of a CUDA device, which it queries even without one. The order in which it samples
frames is reimplemented here, because its own class needs Lightning and a logger.
"""

from __future__ import annotations

import dataclasses
import importlib
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import torch
from torch import Tensor

from dreamenv.backbones.denoising import DenoisingWorld
from dreamenv.benchmarks.common import interleaved
from dreamenv.benchmarks.peers.common import Where, peer_code, randomised, relative_difference, replaced_packages
from dreamenv.denoisers.base import DenoiserInput
from dreamenv.denoisers.diffusion_forcing import DiffusionForcingConfig
from dreamenv.diffusion.context_noise import Stabilization
from dreamenv.errors import UnavailableError
from dreamenv.importers.adapter import Options, load_weights
from dreamenv.importers.diffusion_forcing import DiffusionForcingAdapter
from dreamenv.randomness import normal

__all__ = ["parity", "speed"]

_SIZES: dict[str, dict[str, Any]] = {
    "small": {"width": 16, "mults": [1, 2], "heads": 2, "head_size": 8, "side": 16, "frames": 5},
    "dmlab": {"width": 48, "mults": [1, 2, 4, 8], "heads": 4, "head_size": 32, "side": 64, "frames": 16},
    "minecraft": {"width": 64, "mults": [1, 2, 4, 8], "heads": 4, "head_size": 64, "side": 128, "frames": 10},
}
_KEPT: dict[str, Literal["window", "past"]] = {"": "window", ", past kept": "past"}
_SCHEDULES = {"small": "sigmoid", "dmlab": "cosine", "minecraft": "sigmoid"}
# Of rollouts: frames seen, frames sampled, frames of the window, and steps for each; 100 are published.
_ROLLOUTS = {"small": (2, 5, 4, 10), "dmlab": (16, 1, 16, 100), "minecraft": (10, 2, 10, 5)}


def parity(peer: Path, *, full: bool) -> list[dict[str, Any]]:
    """Compare the network over a window, and a rollout whose window slides.

    Args:
        peer: the folder of the public code.
        full: also at the published sizes, with the whole published window; takes twenty minutes. Frames of
            Minecraft's size have fewer steps than published.

    Returns:
        Rows of what was compared, the size, its parameters, and the largest difference over the largest value.
    """
    rows = []
    for size in _SIZES if full else ["small"]:
        seen, sampled, window, steps = _ROLLOUTS[size]
        with _both(peer, size, steps) as (theirs, ours):
            parameters = sum(parameter.numel() for parameter in ours.denoiser.parameters())
            frames = _SIZES[size]["frames"]
            noisy, level = _window(ours, frames)
            given = DenoiserInput(noisy, level, noisy.new_zeros(*level.shape, 1))
            with torch.no_grad():
                expected = theirs.model(_frames_first(noisy), level.T.long(), None, is_causal=True)
                output = ours.denoiser.forward_sequence(given, given)
                changed = noisy.clone()
                changed[:, -1] += 1
                other = theirs.model(_frames_first(changed), level.T.long(), None, is_causal=True)
            common = {"size": size, "parameters": parameters}
            rows += [
                {"what": f"network, {frames} frames", **common, "relative_difference": relative_difference(
                    output, _frames_first(expected))},
                {"what": f"rollout of {sampled} frames after {seen}, {steps} steps each, window of {window}", **common,
                 "relative_difference": _rollout(theirs, ours, seen, sampled, window)},
                {"what": "theirs: what a change of the last frame changes in those before it", **common,
                 "relative_difference": relative_difference(other[:-1], expected[:-1])},
            ]  # fmt: skip
    return rows


def speed(peer: Path, *, full: bool, where: Where | None = None, rounds: int = 5) -> dict[str, Any]:
    """Time sampling a frame after a full window: the peer, ours, and ours with a cache of past frames.

    That ("past kept") is not the published computation (see `dreamenv.denoisers.diffusion_forcing`).

    Args:
        peer: the folder of the public code.
        full: at the size of the DMLab model, in fewer steps than published, instead of a small one.
        where: the device, and whether ours is compiled, too.
        rounds: in which all are timed.
    """
    where = where or Where()
    size, count = ("dmlab", 4) if full else ("small", 20)
    with _both(peer, size, count) as (theirs, ours), torch.no_grad():
        window = _SIZES[size]["frames"]
        frames = torch.rand(1, window, *ours.spec.frame_shape, generator=torch.Generator().manual_seed(0))
        frames = frames.to(where.device)
        steps = {"peer": _their_step(theirs.to(where.device), frames)}
        for kept, pooling in _KEPT.items():
            ways = where.variants(_replaced(ours, context=window - 1, pooling=pooling))
            steps.update({f"{name}{kept}": _our_step(model, frames) for name, model in ways.items()})
        timed = interleaved({name: where.timed(step, seconds=0) for name, step in steps.items()}, rounds=rounds)
    settings = {"size": size, "window": window, "steps": count, "threads": torch.get_num_threads()}
    return {**settings, **timed.to_json()}


@contextmanager
def _both(peer: Path, size: str, steps: int) -> Iterator[tuple[Any, DenoisingWorld]]:
    """Make theirs with random weights, and import them into ours."""
    if find_spec("rotary_embedding_torch") is None:
        raise UnavailableError(
            "Diffusion Forcing", "rotary-embedding-torch is missing", "pip install rotary-embedding-torch"
        )
    sizes, configuration = _SIZES[size], types.ModuleType("omegaconf")
    configuration.DictConfig = dict  # type: ignore[attr-defined]
    device = (
        torch.cuda.get_device_properties(0) if torch.cuda.is_available() else types.SimpleNamespace(major=0, minor=0)
    )
    with (
        replaced_packages({"omegaconf": configuration}),
        mock.patch.object(torch.cuda, "get_device_properties", return_value=device),
        peer_code(peer / "algorithms" / "diffusion_forcing"),
    ):
        diffusion: Any = importlib.import_module("models.diffusion")

        architecture = types.SimpleNamespace(
            network_size=sizes["width"], attn_heads=sizes["heads"], attn_dim_head=sizes["head_size"],
            dim_mults=sizes["mults"], resolution=sizes["side"], use_init_temporal_attn=True, use_linear_attn=True,
            time_emb_type="rotary", attn_resolutions=[sizes["side"] >> i for i in range(len(sizes["mults"]))],
        )  # fmt: skip
        settings = types.SimpleNamespace(
            timesteps=1000, sampling_timesteps=steps, beta_schedule=_SCHEDULES[size], schedule_fn_kwargs={},
            objective="pred_v", use_fused_snr=True, snr_clip=5.0, cum_snr_decay=0.96, ddim_sampling_eta=0.0,
            clip_noise=6.0, stabilization_level=15, architecture=architecture,
        )  # fmt: skip
        with torch.random.fork_rng():
            theirs = randomised(diffusion.Diffusion([3, sizes["side"], sizes["side"]], 0, True, settings))
        tensors = {f"diffusion_model.{name}": value for name, value in theirs.state_dict().items()}
        options = Options(size=(sizes["side"], sizes["side"]), sampling_steps=steps)
        ours = load_weights(DiffusionForcingAdapter().read([tensors], options))
        assert isinstance(ours, DenoisingWorld)
        yield theirs, ours


def _replaced(model: DenoisingWorld, context: int, pooling: Literal["window", "past"] = "window") -> DenoisingWorld:
    assert isinstance(model.config.denoiser, DiffusionForcingConfig)
    config = dataclasses.replace(
        model.config,
        denoiser=dataclasses.replace(model.config.denoiser, context=context, pooling=pooling),
        training=dataclasses.replace(model.config.training, sequence_length=context),
    )
    other = config.build(model.spec)
    other.load_state_dict(model.state_dict())
    return other.eval()


def _window(model: DenoisingWorld, frames: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    noisy = torch.randn(1, frames, *model.spec.frame_shape, generator=generator)
    return noisy, model.config.process.training_levels(torch.rand(1, frames, generator=generator))


def _frames_first(frames: Tensor) -> Tensor:
    """(b, f, ...) as (f, b, ...), and back."""
    return frames.transpose(0, 1)


def _rollout(theirs: Any, ours: DenoisingWorld, seen: int, sampled: int, window: int) -> float:
    """Return how far apart frames are that both sample from the same noise, after the same frames seen."""
    ours = _replaced(ours, context=window - 1)
    shape = ours.spec.frame_shape
    frames = torch.rand(1, seen, *shape, generator=torch.Generator().manual_seed(2))
    nothing = torch.zeros(1, seen - 1, dtype=torch.int64)
    sequence, samples = 2 * _frames_first(frames) - 1, []
    assert isinstance(ours.config.context_noise, Stabilization)
    level = torch.tensor(ours.config.context_noise.stabilization_level)
    alpha, _ = ours.config.process.alpha_sigma(level)  # what frames are shrunk by as they become context
    with torch.no_grad():
        state = ours.observe(ours.start(frames[:, 0], torch.zeros(1, dtype=torch.int64)), nothing, frames[:, 1:])
        for _ in range(sampled):
            noise = normal(state["rng_key"], state["rng_counter"], shape, stream=0)
            _, state = ours.imagine(state, nothing[:, :1])
            samples.append(state["frames"][:, -1] / alpha)
            sequence = torch.cat((sequence, noise[None]))
            sequence[-window:] = _sampled(theirs, sequence[-window:], window)
    return relative_difference(torch.stack(samples), sequence[seen:])


def _sampled(theirs: Any, sequence: Tensor, window: int) -> Tensor:
    """Sample the last frame of a sequence (f, b, c, h, w), which is noise, from those before it, their way."""
    sequence = sequence[-window:]
    left = torch.zeros(sequence.shape[:2], dtype=torch.int64, device=sequence.device)
    for steps in range(theirs.sampling_timesteps, 0, -1):
        here, there = left.clone(), left.clone()
        here[-1], there[-1] = steps, steps - 1
        sequence = theirs.sample_step(sequence, [None] * len(sequence), here, there)
    return sequence


def _their_step(theirs: Any, frames: Tensor) -> Callable[[], object]:
    """Return what samples the last of these frames (1, f, c, h, w) from the others."""
    return lambda: _sampled(theirs, 2 * _frames_first(frames) - 1, frames.shape[1])


def _our_step(model: DenoisingWorld, frames: Tensor) -> Callable[[], object]:
    nothing = torch.zeros(1, frames.shape[1] - 2, dtype=torch.int64, device=frames.device)
    state = model.observe(model.start(frames[:, 0], nothing[:, 0]), nothing, frames[:, 1:-1])
    return lambda: model.imagine(state, nothing[:, :1])
