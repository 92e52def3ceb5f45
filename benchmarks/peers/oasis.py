"""Compare Oasis with its public program, with the same weights and the same noise."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from dreamenv.backbones.denoising import sampling
from dreamenv.benchmarks.peers.common import Where, relative_difference
from dreamenv.benchmarks.peers.oasis_program import (
    FEWER,
    PUBLISHED,
    SMALL,
    STEPS,
    WINDOW,
    Program,
    Rollout,
    Seconds,
    Size,
)
from dreamenv.codecs.oasis_vae import OasisVAEConfig
from dreamenv.denoisers.base import DenoiserInput
from dreamenv.frames import to_float

__all__ = ["parity", "speed"]


def parity(peer: Path, *, full: bool) -> list[dict[str, Any]]:
    """Compare outputs: of each network, and of rollouts beyond the window.

    Args:
        peer: folder of the public code.
        full: of the published size too.

    Returns:
        A row per comparison; ``relative_difference`` is the largest difference over the largest value of theirs. Rows
        of rollouts have ``by_frame`` too.
    """
    rows = _outputs(peer, SMALL, frames=WINDOW) + _rollouts(peer, FEWER, frames=WINDOW + 12)
    return rows + (
        _outputs(peer, PUBLISHED, frames=2) + _rollouts(peer, PUBLISHED, frames=3, windows=("slides",)) if full else []
    )


def speed(peer: Path, *, full: bool, where: Where | None = None) -> dict[str, Any]:
    """Compare frames per second with a full window: the public program, and ours with either kind of window.

    Seconds per frame are of sampling and decoding it, on the wall's clock and of the processor: on a machine that
    others use as well, the second is the one to trust. Theirs are taken in its own loop, where it begins a frame, and
    of the decoding that it does at the end. Rounds of theirs and ours take turns; ``ratios`` has one per round. Windows
    that slide are timed with weights in bfloat16 as well.

    Args:
        peer: folder of the public code.
        full: of the published size too: there one step of each is timed, and a frame is counted as ten of them, with
            what a frame costs once (updating the cache, decoding) added.
        where: the device, and whether ours is compiled, too.
    """
    where = where or Where()
    result = {"small": _race(peer, SMALL, where, rounds=3, frames=2, steps=STEPS)}
    if full:
        result["published"] = _race(peer, PUBLISHED, where, rounds=1, frames=1, steps=1, windows=("slides",))
    return result


def _outputs(peer: Path, size: Size, frames: int) -> list[dict[str, Any]]:
    scale = OasisVAEConfig.latent_scale
    assert scale is not None
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        their = Program(peer, size, Path(folder))
        network, codec = their.models()
        generator = torch.Generator().manual_seed(2)
        h, w = size.places
        noisy = torch.randn((1, frames, size.codec["latent_dim"], h, w), generator=generator)
        level = torch.randint(1000, (1, frames), generator=generator)
        actions = _actions(frames)[None]
        pictures = torch.rand((1, 2, 3, *size.frames), generator=generator)
        output = network(noisy, level, actions)
        mean = codec.encode(2 * pictures[0] - 1).mean * scale
        decoded = codec.decode(mean / scale)
        counts = [_count(network), _count(codec)]
        del network, codec  # so that theirs and ours are not in memory together
        ours = their.world()
        given = DenoiserInput(noisy, level.float(), actions)
        predicted = ours.denoiser.forward_sequence(given, given)
        latents = ours.codec.encode(pictures)
        shown = ours.codec.decode(latents)[0]
        cells = mean.unflatten(1, latents.shape[-2:]).movedim(-1, 1)
        return [
            _row(f"network, {frames} frames", size, counts[0], predicted, output),
            _row("codec, encoder", size, counts[1], latents[0], cells),
            _row("codec, decoder", size, counts[1], shown, ((decoded + 1) / 2).clamp(0, 1)),
        ]


def _rollouts(
    peer: Path, size: Size, frames: int, windows: tuple[str, ...] = ("restarts", "slides")
) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        their = Program(peer, size, Path(folder))
        rollout = their.rollout(_prompt(size, 1), _actions(frames - 1), frames)
        rows = []
        for window in windows:
            world = their.world(window=window)
            latents = _dream(world, rollout, _prompt(size, 1), _actions(frames - 1))
            assert rollout.latents is not None
            theirs = rollout.latents.unflatten(1, latents.shape[-2:]).movedim(-1, 1)[1:]
            by_frame = [relative_difference(one, other) for one, other in zip(latents, theirs, strict=True)]
            row = _row(f"rollout of {frames} frames, window {window}", size, _count(world.denoiser), latents, theirs)
            del world
            rows.append({**row, "by_frame": by_frame})
        return rows


def _dream(world: Any, rollout: Rollout, prompt: Tensor, actions: Tensor) -> Tensor:
    """Return the latents (f, c, h, w), as they are decoded, that ours samples with the noise of a rollout."""
    decoded, plain = [], world.codec.decode

    def decode(latents: Tensor) -> Tensor:
        decoded.append(latents[0] * world.codec.latent_std)
        frames: Tensor = plain(latents)
        return frames

    with (
        mock.patch.object(sampling, "normal", side_effect=rollout.noise),
        mock.patch.object(world.codec, "decode", decode),
    ):
        state = _begun(world, prompt, actions)
        world.imagine(state, actions[None, len(prompt) - 1 :])
    return torch.cat(decoded)


def _begun(world: Any, prompt: Tensor, actions: Tensor) -> Any:
    frames = to_float(prompt[None])
    state = world.start(frames[:, 0], torch.zeros(1, dtype=torch.int64, device=frames.device))
    return world.observe(state, actions[None, : len(prompt) - 1], frames[:, 1:]) if len(prompt) > 1 else state


def _race(
    peer: Path,
    size: Size,
    where: Where,
    *,
    rounds: int,
    frames: int,
    steps: int,
    windows: tuple[str, ...] = ("slides", "restarts"),
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        their = Program(peer, size, Path(folder), where)
        prompt, actions = _prompt(size, WINDOW), _actions(WINDOW - 1 + frames)
        seen, acted = prompt[:-1].to(where.device), actions.to(where.device)
        worlds: dict[str, Any] = {}
        for window in windows:
            ways = where.variants(their.world(steps, window=window))
            selected = ways if window == "slides" else ["dreamenv"]
            worlds.update({f"{name}, {window}": ways[name] for name in selected})
        states = {}
        for name, world in worlds.items():
            past = torch.randn((1, WINDOW - 1, *world.latent_shape), generator=torch.Generator().manual_seed(6))
            past = past.to(where.device)
            with mock.patch.object(world.codec, "encode", side_effect=[past[:, :1], past[:, 1:]]):
                states[name] = _begun(world, seen, acted)
        seconds: dict[str, list[Seconds]] = {name: [] for name in ("peer", *worlds)}
        warm_up = int(where.compile or where.device.type != "cpu")
        for _ in range(warm_up + rounds):
            rollout = their.rollout(prompt, actions, WINDOW + frames, steps, timed=True)
            sampling_time = (rollout.times[-1] - rollout.times[0]) / frames
            seconds["peer"].append(sampling_time * STEPS / steps + rollout.decoding)
            for name, world in worlds.items():
                began = their.now()
                with _clock(world, their.now) as once:
                    _, states[name] = world.imagine(states[name], acted[None, -frames:])
                total, once_each = their.now() - began, np.sum(once, axis=0)
                seconds[name].append(((total - once_each) * STEPS / steps + once_each) / frames)
        seconds = {name: values[warm_up:] for name, values in seconds.items()}
        result: dict[str, Any] = {"steps_timed": steps, "threads": torch.get_num_threads()}
        for place, clock in enumerate(("wall", "processor")):
            taken = {name: np.array(values)[:, place] for name, values in seconds.items()}
            result[clock] = {
                "frames_per_second": {name: float(1 / np.median(values)) for name, values in taken.items()},
                "ratios": {name: (taken["peer"] / taken[name]).tolist() for name in worlds},
            }
        return result


@contextlib.contextmanager
def _clock(world: Any, now: Callable[[], Seconds]) -> Iterator[list[Seconds]]:
    """Time what a frame costs once, however many steps it takes: updating the cache and decoding."""
    spent: list[Seconds] = []

    def timed(plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*values: Any) -> Any:
            began = now()
            result = plain(*values)
            spent.append(now() - began)
            return result

        return call

    with (
        mock.patch.object(world.denoiser, "update_cache", timed(world.denoiser.update_cache)),
        mock.patch.object(world.codec, "decode", timed(world.codec.decode)),
    ):
        yield spent


def _row(what: str, size: Size, parameters: int, ours: Tensor, theirs: Tensor) -> dict[str, Any]:
    difference = relative_difference(ours, theirs)
    return {"what": what, "size": size.name, "parameters": parameters, "relative_difference": difference}


def _count(module: nn.Module) -> int:
    return sum(one.numel() for name, one in module.named_parameters() if not name.endswith(".freqs"))


def _prompt(size: Size, frames: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(256, (frames, 3, *size.frames), generator=generator, dtype=torch.uint8)


def _actions(steps: int) -> Tensor:
    """Random keys, and turns in the steps that there are: (steps, 25)."""
    generator = torch.Generator().manual_seed(4)
    actions = (torch.rand((steps, 25), generator=generator) < 0.2).float()
    actions[:, 15:17] = torch.randint(-40, 41, (steps, 2), generator=generator) / 40
    return actions
