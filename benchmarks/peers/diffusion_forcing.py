"""Diffusion Forcing's public code beside ours, with the same random weights.

The peer is the main branch of github.com/buoyancy99/diffusion-forcing, of which only the network and its sampling are
imported. It needs ``rotary-embedding-torch``, and diffusers. What stands in for the rest: a dictionary for omegaconf's
configuration, in a type annotation, and the properties of a CUDA device, which it asks for even without one. The order
in which it samples frames is written out here, because the class that holds it needs Lightning and a logger.
"""

from __future__ import annotations

import dataclasses
import importlib
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from dreamenv.backbones.denoising.model import DenoisingWorld
from dreamenv.backbones.denoising.networks import Asked
from dreamenv.benchmarks.common import interleaved
from dreamenv.benchmarks.peers.common import Where, peer_code, randomised, relative_difference, stand_ins
from dreamenv.errors import UnavailableError
from dreamenv.importers.adapter import Options, fitted
from dreamenv.importers.diffusion_forcing import DiffusionForcingAdapter
from dreamenv.randomness import normal

__all__ = ["parity", "speed"]

_SIZES: dict[str, dict[str, Any]] = {
    "small": {"width": 16, "mults": [1, 2], "heads": 2, "head_size": 8, "side": 16, "frames": 5},
    "dmlab": {"width": 48, "mults": [1, 2, 4, 8], "heads": 4, "head_size": 32, "side": 64, "frames": 16},
    "minecraft": {"width": 64, "mults": [1, 2, 4, 8], "heads": 4, "head_size": 64, "side": 128, "frames": 10},
}
_SCHEDULES = {"small": "sigmoid", "dmlab": "cosine", "minecraft": "sigmoid"}
# Of rollouts: frames seen, frames drawn, frames of the window, and passes for each; 100 are published.
_ROLLOUTS = {"small": (2, 5, 4, 10), "dmlab": (16, 1, 16, 100), "minecraft": (10, 2, 10, 5)}


def parity(peer: Path, *, full: bool) -> list[dict[str, Any]]:
    """Compare one pass over a window, and a rollout whose window slides.

    Args:
        peer: the folder of the public code.
        full: also at the published sizes, with the whole published window; takes twenty minutes. Frames of
            Minecraft's size have fewer passes than published.

    Returns:
        Rows of what was compared, the size, its parameters, and the largest difference over the largest value.
    """
    rows = []
    for size in _SIZES if full else ["small"]:
        seen, drawn, window, passes = _ROLLOUTS[size]
        with _both(peer, size, passes) as (theirs, ours):
            parameters = sum(parameter.numel() for parameter in ours.network.parameters())
            frames = _SIZES[size]["frames"]
            noisy, level = _window(ours, frames)
            with torch.no_grad():
                expected = theirs.model(_turned(noisy), level.T.long(), None, is_causal=True)
                found = ours.network.predict_all(noisy, _asked(noisy, level))
                changed = noisy.clone()
                changed[:, -1] += 1
                other = theirs.model(_turned(changed), level.T.long(), None, is_causal=True)
            common = {"size": size, "parameters": parameters}
            rows += [
                {"what": f"one pass over {frames} frames", **common, "relative_difference": relative_difference(
                    found, _turned(expected))},
                {"what": f"rollout of {drawn} frames after {seen}, {passes} passes each, window of {window}", **common,
                 "relative_difference": _rollout(theirs, ours, seen, drawn, window)},
                {"what": "theirs: what a change of the last frame changes in those before it", **common,
                 "relative_difference": relative_difference(other[:-1], expected[:-1])},
            ]  # fmt: skip
    return rows


def speed(peer: Path, *, full: bool, where: Where | None = None, rounds: int = 5) -> dict[str, Any]:
    """Draw a frame after a full window: the peer, ours, and ours with what past frames left kept.

    That ("past kept") is not the published computation (see `dreamenv.public.diffusion_forcing`).

    Args:
        peer: the folder of the public code.
        full: at the size of the DMLab model, in fewer passes than published, instead of a small one.
        where: the device, and whether ours is compiled, too.
        rounds: in which all are timed.
    """
    where = where or Where()
    size, passes = ("dmlab", 4) if full else ("small", 20)
    with _both(peer, size, passes) as (theirs, ours), torch.no_grad():
        window = _SIZES[size]["frames"]
        frames = torch.rand(1, window, *ours.spec.frame_shape, generator=torch.Generator().manual_seed(0))
        frames = frames.to(where.device)
        steps = {"peer": _their_step(theirs.to(where.device), frames)}
        for kept, pooling in (("", "window"), (", past kept", "past")):
            ways = where.ways(_replaced(ours, context=window - 1, pooling=pooling))
            steps.update({f"{name}{kept}": _our_step(model, frames) for name, model in ways.items()})
        timed = interleaved({name: where.timed(step, seconds=0) for name, step in steps.items()}, rounds=rounds)
    settings = {"size": size, "window": window, "passes": passes, "threads": torch.get_num_threads()}
    return {**settings, **timed.to_json()}


@contextmanager
def _both(peer: Path, size: str, passes: int) -> Iterator[tuple[Any, DenoisingWorld]]:
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
        stand_ins({"omegaconf": configuration}),
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
            timesteps=1000, sampling_timesteps=passes, beta_schedule=_SCHEDULES[size], schedule_fn_kwargs={},
            objective="pred_v", use_fused_snr=True, snr_clip=5.0, cum_snr_decay=0.96, ddim_sampling_eta=0.0,
            clip_noise=6.0, stabilization_level=15, architecture=architecture,
        )  # fmt: skip
        with torch.random.fork_rng():
            theirs = randomised(diffusion.Diffusion([3, sizes["side"], sizes["side"]], 0, True, settings))
        tensors = {f"diffusion_model.{name}": value for name, value in theirs.state_dict().items()}
        options = Options(size=(sizes["side"], sizes["side"]), passes=passes)
        ours = fitted(DiffusionForcingAdapter().read([tensors], options))
        assert isinstance(ours, DenoisingWorld)
        yield theirs, ours


def _replaced(model: DenoisingWorld, context: int, pooling: str = "window") -> DenoisingWorld:
    public = dataclasses.replace(model.config.public, pooling=pooling)  # type: ignore[type-var]
    config = dataclasses.replace(model.config, context=context, denoiser_length=context, public=public)
    other = config.build(model.spec)
    other.load_state_dict(model.state_dict())
    return other.eval()


def _window(model: DenoisingWorld, frames: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    noisy = torch.randn(1, frames, *model.spec.frame_shape, generator=generator)
    return noisy, model.process.draw(torch.rand(1, frames, generator=generator))


def _asked(noisy: Tensor, level: Tensor) -> Asked:
    return Asked(noisy, level, noisy.new_zeros(*level.shape, 1))


def _turned(frames: Tensor) -> Tensor:
    """Rows first, or frames first."""
    return frames.transpose(0, 1)


def _rollout(theirs: Any, ours: DenoisingWorld, seen: int, drawn: int, window: int) -> float:
    """Return how far apart frames are that both draw from the same noise, after the same frames seen."""
    ours = _replaced(ours, context=window - 1)
    shape = ours.spec.frame_shape
    frames = torch.rand(1, seen, *shape, generator=torch.Generator().manual_seed(2))
    nothing = torch.zeros(1, seen - 1, dtype=torch.int64)
    sequence, found = 2 * _turned(frames) - 1, []
    with torch.no_grad():
        state = ours.observe(ours.start(frames[:, 0], torch.zeros(1, dtype=torch.int64)), nothing, frames[:, 1:])
        for _ in range(drawn):
            noise = normal(state["rng_key"], state["rng_counter"], shape, stream=0)
            _, state = ours.imagine(state, nothing[:, :1])
            found.append(state["frames"][:, -1])
            sequence = torch.cat((sequence, noise[None]))
            sequence[-window:] = _drawn(theirs, sequence[-window:], window)
    return relative_difference(torch.stack(found), sequence[seen:])


def _drawn(theirs: Any, sequence: Tensor, window: int) -> Tensor:
    """Draw the last frame of a sequence (f, b, c, h, w), which is noise, from those before it, their way."""
    sequence = sequence[-window:]
    left = torch.zeros(sequence.shape[:2], dtype=torch.int64, device=sequence.device)
    for passes in range(theirs.sampling_timesteps, 0, -1):
        here, there = left.clone(), left.clone()
        here[-1], there[-1] = passes, passes - 1
        sequence = theirs.sample_step(sequence, [None] * len(sequence), here, there)
    return sequence


def _their_step(theirs: Any, frames: Tensor) -> Callable[[], object]:
    """Return what draws the last of these frames (1, f, c, h, w) from the others."""
    return lambda: _drawn(theirs, 2 * _turned(frames) - 1, frames.shape[1])


def _our_step(model: DenoisingWorld, frames: Tensor) -> Callable[[], object]:
    nothing = torch.zeros(1, frames.shape[1] - 2, dtype=torch.int64, device=frames.device)
    state = model.observe(model.start(frames[:, 0], nothing[:, 0]), nothing, frames[:, 1:-1])
    return lambda: model.imagine(state, nothing[:, :1])
