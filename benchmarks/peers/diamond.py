"""Compare DIAMOND's program with ours, with the same weights.

The peer's denoiser, sampler, and network of rewards run as they are. Libraries and modules of its own that only its
training needs are stood in for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.backbones.denoising.presentation import Presentation
from dreamenv.benchmarks.common import interleaved
from dreamenv.benchmarks.peers.common import Where, peer_code, randomised, relative_difference, replaced_packages
from dreamenv.diffusion.preconditioning import Preconditioning
from dreamenv.frames import quantize_uint8
from dreamenv.importers.adapter import Options, load_weights
from dreamenv.importers.diamond import DiamondAdapter
from dreamenv.randomness import normal

__all__ = ["parity", "speed"]

_SMALL: dict[str, Any] = {"channels": [32, 64], "blocks": [1, 1], "condition": 64, "memory": 32, "side": 16}
_FULL: dict[str, Any] = {
    "channels": [64] * 4,
    "blocks": [2] * 4,
    "condition": 256,
    "memory": 512,
    "side": 64,
}  # Atari's
_ACTIONS, _CONTEXT, _ROWS, _STEPS = 6, 4, 2, 6


def parity(peer: Path, *, full: bool = False) -> list[dict[str, Any]]:
    """Compare forward passes, and a rollout.

    The peer rounds expected frames down to 8 bits in every step. Rounding errors tip a few values over the edge, and
    those are a whole grey level off, in whichever of the two. So the rollout is compared without that rounding, and for
    one frame with it the share of values that differ is given.
    """
    rows = []
    for name, sizes in (("small", _SMALL), *((("published", _FULL),) if full else ())):
        with _peer(peer, sizes) as (denoiser, rewards, modules):
            model: Any = _ours(denoiser, rewards)
            found = _forward(denoiser, rewards, model, sizes["side"])
            exact = _ours(denoiser, rewards, quantized=False)
            found["rollout, not rounded to 8 bits"] = _rollout(denoiser, rewards, exact, modules, quantized=False)
            found["share of values a grey level off, a frame"] = _rollout(
                denoiser, rewards, model, modules, quantized=True
            )
            count = sum(one.numel() for part in (denoiser, rewards) for one in part.parameters())
        rows += [
            {"what": what, "size": name, "parameters": count, "relative_difference": difference}
            for what, difference in found.items()
        ]
    return rows


def speed(
    peer: Path, *, full: bool = True, where: Where | None = None, batches: tuple[int, ...] = (1, 32), rounds: int = 5
) -> dict[str, Any]:
    """Return frames per second of the peer's step of an environment and of ours, and their ratio, by batch.

    Ours is timed in each of `Where.ways`; "bfloat16" is what ``gym.make(..., precision="bfloat16")`` has.
    """
    where = where or Where()
    sizes = _FULL if full else _SMALL
    results = {}
    with _peer(peer, sizes) as (denoiser, rewards, modules):
        ways = where.variants(_ours(denoiser, rewards))
        denoiser, rewards = denoiser.to(where.device), rewards.to(where.device)
        for batch in batches:
            steps = {"peer": _their_stepper(denoiser, rewards, modules, sizes["side"], batch)}
            steps.update({name: _our_stepper(model, batch, where.device) for name, model in ways.items()})
            timed = {name: where.timed(step, units=batch) for name, step in steps.items()}
            results[str(batch)] = interleaved(timed, rounds=rounds).to_json()
    return results


@contextlib.contextmanager
def _peer(peer: Path, sizes: dict[str, Any]) -> Iterator[tuple[Any, Any, Any]]:
    """Make the peer's networks with random weights; their modules can be imported within the context."""
    functional_metrics = types.ModuleType("torcheval.metrics.functional")
    functional_metrics.multiclass_confusion_matrix = None  # type: ignore[attr-defined]
    data, utils = types.ModuleType("data"), types.ModuleType("utils")
    data.Batch, utils.LossAndLogs, utils.init_lstm = object, tuple, lambda _: None  # type: ignore[attr-defined]
    missing = {
        "torcheval": types.ModuleType("torcheval"), "torcheval.metrics": types.ModuleType("torcheval.metrics"),
        "torcheval.metrics.functional": functional_metrics, "data": data, "utils": utils,
    }  # fmt: skip
    with replaced_packages(missing), peer_code(peer / "src"):
        events = importlib.import_module("models.rew_end_model")
        denoiser, diffusion_sampler, inner_model = (
            importlib.import_module(f"models.diffusion.{name}")
            for name in ("denoiser", "diffusion_sampler", "inner_model")
        )

        levels, channels = len(sizes["channels"]), sizes["channels"]
        inner = inner_model.InnerModelConfig(
            3, _CONTEXT, sizes["condition"], sizes["blocks"], channels, [False] * levels, _ACTIONS
        )
        network = denoiser.Denoiser(denoiser.DenoiserConfig(inner, 0.5, 0.3))
        rewards = events.RewEndModel(
            events.RewEndModelConfig(
                sizes["memory"], 3, sizes["side"], sizes["condition"] // 2, sizes["blocks"],
                [width // 2 for width in channels], [False] * levels, _ACTIONS,
            )
        )  # fmt: skip
        yield randomised(network, 1), randomised(rewards, 2), diffusion_sampler


def _ours(denoiser: nn.Module, rewards: nn.Module, *, quantized: bool = True) -> nn.Module:
    tensors = {
        **{f"denoiser.{name}": one for name, one in denoiser.state_dict().items()},
        **{f"rew_end_model.{name}": one for name, one in rewards.state_dict().items()},
    }
    found = DiamondAdapter().read([tensors], Options())
    config: Any = found.config
    if not quantized:
        sampler = dataclasses.replace(config.sampler, quantize_x0=False)
        config = dataclasses.replace(config, sampler=sampler, quantize_frames=False)
    return load_weights(dataclasses.replace(found, config=config))


@torch.no_grad()
def _forward(denoiser: Any, rewards: Any, model: Any, side: int) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    frames = torch.rand(_ROWS, _CONTEXT, 3, side, side, generator=generator)
    actions = torch.randint(_ACTIONS, (_ROWS, _CONTEXT), generator=generator)
    noisy, sigma = torch.randn(_ROWS, 1, 3, side, side, generator=generator), torch.tensor([0.1, 2.0])
    vectors = functional.one_hot(actions, _ACTIONS).float()
    theirs = denoiser.compute_model_output(
        noisy[:, 0], (2 * frames - 1).flatten(1, 2), actions, denoiser.compute_conditioners(sigma)
    )
    config = model.config
    presentation = Presentation(Preconditioning(config.process, config.target), config.context_noise, None)
    context = presentation.context(2 * frames - 1, vectors.roll(1, dims=1))  # a frame's own action leads to the next
    given = presentation.noisy(noisy, sigma[:, None], vectors[:, -1:])
    cache = model.denoiser.update_cache(model.denoiser.init_cache(frames[:, 0]), context)
    ours = model.denoiser.forward_cached(cache, given)
    reward, end, _ = rewards.predict_rew_end(2 * frames - 1, actions, 2 * frames.flip(1) - 1)
    logits, _ = model.head.predict(frames, vectors, frames.flip(1))
    return {
        "denoiser": relative_difference(ours[:, 0], theirs),
        "rewards and terminations": relative_difference(logits, torch.cat((reward, end), dim=-1)),
    }


@torch.no_grad()
def _rollout(denoiser: Any, rewards: Any, model: Any, modules: Any, *, quantized: bool) -> float:
    """Dream with the same noise.

    Returns:
        Without rounding to 8 bits, the largest difference of any frame, reward or termination within some steps; with
        it, the share of values of the first frame that differ.
    """
    shape = model.spec.frame_shape
    generator = torch.Generator().manual_seed(1)

    def pictures(*lead: int) -> Tensor:
        return quantize_uint8(torch.rand(*lead, *shape, generator=generator))

    state = model.start(pictures(_ROWS), torch.arange(_ROWS))
    acted = torch.randint(_ACTIONS, (_ROWS, _CONTEXT), generator=generator)
    state = model.observe(state, acted, pictures(_ROWS, _CONTEXT))
    scale = model.config.target.context_scale  # of the frames in the cache
    buffer, acted = state["frames"] / scale, acted.roll(-1, dims=1)
    memory = tuple(state[name][None] for name in ("hidden", "cell"))
    sampler = modules.DiffusionSampler(denoiser, modules.DiffusionSamplerConfig(3))
    worst = 0.0
    for _ in range(1 if quantized else _STEPS):
        action = torch.randint(_ACTIONS, (_ROWS, 1), generator=generator)
        noise = normal(state["rng_key"], state["rng_counter"], shape)
        acted[:, -1] = action[:, 0]
        with contextlib.ExitStack() as patches:
            patches.enter_context(mock.patch.object(torch, "randn", lambda *_, noise=noise, **__: noise))
            if not quantized:
                patches.enter_context(mock.patch.object(denoiser, "wrap_model_output", _expected))
            theirs = sampler.sample(buffer, acted)[0].clamp(-1, 1)
        imagined, state = model.imagine(state, action)
        ours = state["frames"][:, -1] / scale
        if quantized:
            return float(((ours - theirs).abs() > 1e-3).float().mean())
        reward, end, memory = rewards.predict_rew_end(buffer[:, -1:], acted[:, -1:], theirs[:, None], memory)
        pairs = (
            (ours, theirs),
            (imagined.termination, end.softmax(-1)[..., 1]),
            (imagined.rewards, reward.softmax(-1) @ torch.tensor([-1.0, 0.0, 1.0])),
        )
        worst = max(worst, *(relative_difference(one, other) for one, other in pairs))
        buffer = torch.cat((buffer[:, 1:], theirs[:, None]), dim=1)
        acted = acted.roll(-1, dims=1)
    return worst


def _expected(noisy: Tensor, output: Tensor, conditioners: Any) -> Tensor:
    """The peer's expected frame, not rounded."""
    return conditioners.c_skip * noisy + conditioners.c_out * output  # type: ignore[no-any-return]


def _their_stepper(denoiser: Any, rewards: Any, modules: Any, side: int, batch: int) -> Callable[[], None]:
    """Return a step as the peer's environment makes it, without its resets."""
    sampler = modules.DiffusionSampler(denoiser, modules.DiffusionSamplerConfig(3))
    device = denoiser.device
    buffer = torch.rand(batch, _CONTEXT, 3, side, side, device=device) * 2 - 1
    acted = torch.randint(_ACTIONS, (batch, _CONTEXT), device=device)
    memory = tuple(torch.zeros(1, batch, rewards.lstm.hidden_size, device=device) for _ in range(2))

    @torch.no_grad()
    def step() -> None:
        nonlocal buffer, acted, memory
        acted[:, -1] = torch.randint(_ACTIONS, (batch,), device=device)
        sampled, _ = sampler.sample(buffer, acted)
        reward, end, memory = rewards.predict_rew_end(buffer[:, -1:], acted[:, -1:], sampled[:, None], memory)
        torch.distributions.Categorical(logits=reward).sample()
        torch.distributions.Categorical(logits=end).sample()
        buffer = torch.cat((buffer[:, 1:], sampled[:, None]), dim=1)
        acted = acted.roll(-1, dims=1)

    return step


def _our_stepper(model: Any, batch: int, device: torch.device) -> Callable[[], None]:
    frames = torch.rand(batch, *model.spec.frame_shape, device=device)
    state = model.start(frames, torch.arange(batch, device=device))

    @torch.no_grad()
    def step() -> None:
        nonlocal state
        _, state = model.imagine(state, torch.randint(_ACTIONS, (batch, 1), device=device))

    return step
