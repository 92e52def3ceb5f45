"""Compare the speed of IRIS's program with that of token worlds of the same sizes.

The peer's tokenizer, transformer and environment of imagination run as they are, without the network of its perceptual
loss, which only its training needs. Libraries and modules of its own that a step does not need are stood in for.
Weights are random on both sides and not the same: the transformers differ in normalisation, positions and feed-forward
layers, not in width, depth, heads, tokens, or (within 1 %) weights.

Ours is timed in raster order, which is the peer's, and in orders of fewer passes; with networks that decode as large
maps with as many channels as the peer's, and with the preset's smaller ones; and without decoding, on both sides.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

from dreamenv.allocator import keep_freed_memory
from dreamenv.backbones.tokens.diagonal import DiagonalOrderConfig
from dreamenv.backbones.tokens.masked import MaskedOrderConfig
from dreamenv.backbones.tokens.model import TokenWorldConfig
from dreamenv.backbones.tokens.presets import iris, tiny
from dreamenv.benchmarks.common import interleaved
from dreamenv.benchmarks.peers.common import Where, peer_code, randomised, replaced_packages
from dreamenv.codecs.grid import ConvGridConfig
from dreamenv.errors import ConfigError
from dreamenv.world_model import WorldModelSpec

__all__ = ["parity", "speed"]

_ACTIONS, _SIDE = 6, 64
_PEER_DECODER = ConvGridConfig(patch=1, channels=(64,) * 5, blocks=2)
_CYCLE = 19  # steps until the peer forgets, and begins again with an empty cache: the mean over all lengths
_STEPS = 5  # of ours, which cost the same whatever came before


def parity(peer: Path, *, full: bool = False) -> list[dict[str, Any]]:
    """Refuse: there is nothing to compare.

    Raises:
        ConfigError: always.
    """
    del peer, full
    raise ConfigError("IRIS's weights are not imported, so outputs cannot agree; use --no-parity --speed.")


def speed(
    peer: Path, *, full: bool = True, where: Where | None = None, batches: tuple[int, ...] = (1, 32), rounds: int = 3
) -> dict[str, Any]:
    """Return frames per second of the peer's step of an environment and of ours, and their ratio, by batch.

    The clock is that of the processor on a CPU, on which a busy machine has less influence.
    """
    where = where or Where()
    keep_freed_memory()
    clock = time.process_time if where.device.type == "cpu" else time.perf_counter
    results: dict[str, Any] = {}
    with _peer(peer, full) as make:
        theirs = make(where.device)
        ours: dict[str, Any] = {
            name: config.build(_spec()).to(where.device).eval() for name, config in _ours(full).items()
        }
        for name in ("dreamenv", "dreamenv, diagonal order"):
            variants = where.variants(ours[name])
            ours.update({way.replace("dreamenv", name, 1): one for way, one in variants.items() if way != "dreamenv"})
        for batch in batches:
            steps = {
                "peer": _their_stepper(theirs, batch, where.device, decode=True),
                "peer, tokens only": _their_stepper(theirs, batch, where.device, decode=False),
            }
            steps.update({name: _our_stepper(model, batch, where.device, decode=True) for name, model in ours.items()})
            for name in ("dreamenv", "dreamenv, diagonal order"):
                steps[f"{name}, tokens only"] = _our_stepper(ours[name], batch, where.device, decode=False)
            for step in steps.values():
                step()
            timed = {
                name: _several(step, _CYCLE if name.startswith("peer") else _STEPS, batch, where)
                for name, step in steps.items()
            }
            results[str(batch)] = interleaved(timed, rounds=rounds, warm_up=0, clock=clock).to_json()
        results["parameters"] = {
            "peer, transformer": _count(theirs.world_model.transformer.blocks),
            "dreamenv, transformer": _count(ours["dreamenv"].dynamics.transformer.layers),
            "peer, decoder": _count(theirs.tokenizer.decoder),
            "dreamenv, decoder as large as the peer's": _count(
                ours["dreamenv, decoder as large as the peer's"].frames.tokenizer.grid.up
            ),
            "dreamenv, decoder": _count(ours["dreamenv"].frames.tokenizer.grid.up),
        }
    return results


def _ours(full: bool) -> dict[str, TokenWorldConfig]:
    config: Any = iris()
    if not full:
        config = dataclasses.replace(config, transformer=dataclasses.replace(tiny().transformer, context=19))
    large = dataclasses.replace(config.tokenizer, grid=_PEER_DECODER)
    return {
        "dreamenv": config,
        "dreamenv, decoder as large as the peer's": dataclasses.replace(config, tokenizer=large),
        "dreamenv, diagonal order": dataclasses.replace(config, order=DiagonalOrderConfig()),
        "dreamenv, masked order": dataclasses.replace(config, order=MaskedOrderConfig()),
    }


@contextlib.contextmanager
def _peer(peer: Path, full: bool) -> Iterator[Callable[[torch.device], Any]]:
    """Yield what makes the peer's environment; its modules can be imported within the context."""

    def stand_in(name: str, **entries: Any) -> types.ModuleType:
        module = types.ModuleType(name)
        for key, value in entries.items():
            setattr(module, key, value)
        return module

    missing = {
        "gym": stand_in("gym", Env=object),
        "torchvision": stand_in("torchvision"),
        "dataset": stand_in("dataset", Batch=object),
        "utils": stand_in("utils", init_weights=lambda _: None, LossWithIntermediateLosses=object),
        "models.tokenizer.lpips": stand_in("models.tokenizer.lpips", LPIPS=object),
    }
    with replaced_packages(missing), peer_code(peer / "src"):
        models = importlib.import_module("models.tokenizer")
        world_model = importlib.import_module("models.world_model")
        transformer = importlib.import_module("models.transformer")
        env = _file_module("iris_world_model_env", peer / "src" / "envs" / "world_model_env.py")

        def make(device: torch.device) -> Any:
            networks = models.EncoderDecoderConfig(
                resolution=_SIDE, in_channels=3, z_channels=512, ch=64, ch_mult=[1] * 5, num_res_blocks=2,
                attn_resolutions=[8, 16], out_ch=3, dropout=0.0,
            )  # fmt: skip
            tokenizer = models.Tokenizer(512, 512, models.Encoder(networks), models.Decoder(networks), with_lpips=False)
            layers, width, heads = (10, 256, 4) if full else (2, 32, 2)
            sizes = transformer.TransformerConfig(
                tokens_per_block=17, max_blocks=20, attention="causal", num_layers=layers, num_heads=heads,
                embed_dim=width, embed_pdrop=0.1, resid_pdrop=0.1, attn_pdrop=0.1,
            )  # fmt: skip
            world = world_model.WorldModel(512, _ACTIONS, sizes)
            return env.WorldModelEnv(randomised(tokenizer, 1), randomised(world, 2), device)

        yield make


def _file_module(name: str, path: Path) -> Any:
    """Import one file, without the package that it is in and what that imports."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _their_stepper(env: Any, batch: int, device: torch.device, *, decode: bool) -> Callable[[], None]:
    """Return a step as the peer's environment makes it, without its resets."""
    first = torch.rand(batch, 3, _SIDE, _SIDE, device=device)
    memory: dict[str, Any] = {}
    shows = type(env).decode_obs_tokens.__get__(env)

    def step() -> None:
        if memory:
            vars(env).update(memory)
        env.decode_obs_tokens = shows if decode else lambda: None
        if not memory:
            env.reset_from_initial_observations(first)
        env.step(torch.randint(_ACTIONS, (batch,), device=device))
        memory.update({name: getattr(env, name) for name in ("keys_values_wm", "obs_tokens")})

    return step


def _our_stepper(model: Any, batch: int, device: torch.device, *, decode: bool) -> Callable[[], None]:
    """Return a step with a full cache: it costs the same whatever came before."""
    length, generator = model.config.transformer.context + 1, torch.Generator(device).manual_seed(0)
    frames = torch.rand(batch, length + 1, 3, _SIDE, _SIDE, device=device, generator=generator)
    state = model.start(frames[:, 0], torch.arange(batch, device=device))
    state = model.observe(state, torch.zeros(batch, length, dtype=torch.int64, device=device), frames[:, 1:])

    def step() -> None:
        nonlocal state
        _, state = model.imagine(state, torch.randint(_ACTIONS, (batch, 1), device=device), decode=decode)

    return step


def _several(step: Callable[[], None], count: int, batch: int, where: Where) -> Callable[[], float]:
    """Return what takes so many steps, synchronised, and counts frames."""

    def run() -> float:
        for _ in range(count):
            step()
        where.wait()
        return float(count * batch)

    return run


def _spec() -> WorldModelSpec:
    return WorldModelSpec(frame_shape=(3, _SIDE, _SIDE), action_space=gym.spaces.Discrete(_ACTIONS), frame_rate=15.0)


def _count(module: torch.nn.Module) -> int:
    return sum(one.numel() for one in module.parameters())
