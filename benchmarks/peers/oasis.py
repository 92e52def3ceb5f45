"""Oasis beside its public program, with the same weights and the same noise."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from dreamenv.backbones.denoising import model as denoising_model
from dreamenv.backbones.denoising.networks import Asked
from dreamenv.benchmarks.peers.common import Where, relative_difference
from dreamenv.benchmarks.peers.oasis_program import (
    FEWER,
    PASSES,
    PUBLISHED,
    SMALL,
    WINDOW,
    Film,
    Program,
    Seconds,
    Size,
)
from dreamenv.frames import to_float
from dreamenv.public.oasis_codec import OasisCodecSizes

__all__ = ["parity", "speed"]


def parity(peer: Path, *, full: bool) -> list[dict[str, Any]]:
    """Compare outputs: of each network, and of films that go on beyond the window.

    Args:
        peer: folder of the public code.
        full: of the published size too.

    Returns:
        A row per comparison; ``relative_difference`` is the largest difference over the largest value of theirs. Rows
        of films have ``by_frame`` too.
    """
    rows = _outputs(peer, SMALL, frames=WINDOW) + _films(peer, FEWER, frames=WINDOW + 12)
    return rows + (
        _outputs(peer, PUBLISHED, frames=2) + _films(peer, PUBLISHED, frames=3, windows=("slides",)) if full else []
    )


def speed(peer: Path, *, full: bool, where: Where | None = None) -> dict[str, Any]:
    """Compare frames per second with a full window: the public program, and ours with either kind of window.

    Seconds per frame are of drawing and decoding it, on the wall's clock and of the processor: on a machine that others
    use as well, the second is the one to trust. Theirs are taken in its own loop, where it begins a frame, and of the
    decoding that it does at the end. Rounds of theirs and ours take turns; ``ratios`` has one per round. Windows that
    slide are timed with weights in bfloat16 as well.

    Args:
        peer: folder of the public code.
        full: of the published size too: there one pass of each is timed, and a frame is counted as ten of them, with
            what a frame costs once (remembering, decoding) added.
        where: the device, and whether ours is compiled, too.
    """
    where = where or Where()
    result = {"small": _race(peer, SMALL, where, rounds=3, frames=2, passes=PASSES)}
    if full:
        result["published"] = _race(peer, PUBLISHED, where, rounds=1, frames=1, passes=1, windows=("slides",))
    return result


def _outputs(peer: Path, size: Size, frames: int) -> list[dict[str, Any]]:
    scale = OasisCodecSizes().scale
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        their = Program(peer, size, Path(folder))
        network, codec = their.models()
        generator = torch.Generator().manual_seed(2)
        h, w = size.places
        noisy = torch.randn((1, frames, size.codec["latent_dim"], h, w), generator=generator)
        level = torch.randint(1000, (1, frames), generator=generator)
        actions = _actions(frames)[None]
        pictures = torch.rand((1, 2, 3, *size.frames), generator=generator)
        said = network(noisy, level, actions)
        mean = codec.encode(2 * pictures[0] - 1).mean * scale
        drawn = codec.decode(mean / scale)
        counts = [_count(network), _count(codec)]
        del network, codec  # so that theirs and ours are not in memory together
        ours = their.world()
        heard = ours.network.predict_all(noisy, Asked(noisy, level.float(), actions))
        latents = ours.codec.encode(pictures)
        shown = ours.codec.decode(latents)[0]
        cells = mean.unflatten(1, latents.shape[-2:]).movedim(-1, 1)
        return [
            _row(f"network, {frames} frames", size, counts[0], heard, said),
            _row("codec, encoder", size, counts[1], latents[0], cells),
            _row("codec, decoder", size, counts[1], shown, ((drawn + 1) / 2).clamp(0, 1)),
        ]


def _films(
    peer: Path, size: Size, frames: int, windows: tuple[str, ...] = ("restarts", "slides")
) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        their = Program(peer, size, Path(folder))
        film = their.film(_prompt(size, 1), _actions(frames - 1), frames)
        rows = []
        for window in windows:
            world = their.world(window=window)
            latents = _dream(world, film, _prompt(size, 1), _actions(frames - 1))
            assert film.latents is not None
            theirs = film.latents.unflatten(1, latents.shape[-2:]).movedim(-1, 1)[1:]
            by_frame = [relative_difference(one, other) for one, other in zip(latents, theirs, strict=True)]
            row = _row(f"film of {frames} frames, window {window}", size, _count(world.network), latents, theirs)
            del world
            rows.append({**row, "by_frame": by_frame})
        return rows


def _dream(world: Any, film: Film, prompt: Tensor, actions: Tensor) -> Tensor:
    """Return the latents (f, c, h, w), as they are decoded, that ours draws with the noise of a film."""
    decoded, plain = [], world.codec.decode

    def decode(latents: Tensor) -> Tensor:
        decoded.append(latents[0] * world.codec.latent_std)
        frames: Tensor = plain(latents)
        return frames

    with (
        mock.patch.object(denoising_model, "normal", side_effect=film.noise),
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
    passes: int,
    windows: tuple[str, ...] = ("slides", "restarts"),
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        their = Program(peer, size, Path(folder), where)
        prompt, actions = _prompt(size, WINDOW), _actions(WINDOW - 1 + frames)
        seen, acted = prompt[:-1].to(where.device), actions.to(where.device)
        worlds: dict[str, Any] = {}
        for window in windows:
            ways = where.ways(their.world(window=window))
            kept = ways if window == "slides" else ["dreamenv"]
            worlds.update({f"{name}, {window}": ways[name] for name in kept})
        states = {}
        for name, world in worlds.items():
            world.plan = dataclasses.replace(world.config, passes=passes).make_plan()
            past = torch.randn((1, WINDOW - 1, *world.drawn_shape), generator=torch.Generator().manual_seed(6))
            past = past.to(where.device)
            with mock.patch.object(world.codec, "encode", side_effect=[past[:, :1], past[:, 1:]]):
                states[name] = _begun(world, seen, acted)
        seconds: dict[str, list[Seconds]] = {name: [] for name in ("peer", *worlds)}
        warm_up = int(where.compile or where.device.type != "cpu")
        for _ in range(warm_up + rounds):
            film = their.film(prompt, actions, WINDOW + frames, passes, timed=True)
            drawing = (film.moments[-1] - film.moments[0]) / frames
            seconds["peer"].append(drawing * PASSES / passes + film.decoding)
            for name, world in worlds.items():
                began = their.now()
                with _clock(world, their.now) as once:
                    _, states[name] = world.imagine(states[name], acted[None, -frames:])
                whole, besides = their.now() - began, np.sum(once, axis=0)
                seconds[name].append(((whole - besides) * PASSES / passes + besides) / frames)
        seconds = {name: values[warm_up:] for name, values in seconds.items()}
        result: dict[str, Any] = {"passes_timed": passes, "threads": torch.get_num_threads()}
        for place, clock in enumerate(("wall", "processor")):
            taken = {name: np.array(values)[:, place] for name, values in seconds.items()}
            result[clock] = {
                "frames_per_second": {name: float(1 / np.median(values)) for name, values in taken.items()},
                "ratios": {name: (taken["peer"] / taken[name]).tolist() for name in worlds},
            }
        return result


@contextlib.contextmanager
def _clock(world: Any, now: Callable[[], Seconds]) -> Iterator[list[Seconds]]:
    """Time what a frame costs once, however many passes it takes: remembering and decoding."""
    spent: list[Seconds] = []

    def timed(plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*values: Any) -> Any:
            began = now()
            result = plain(*values)
            spent.append(now() - began)
            return result

        return call

    with (
        mock.patch.object(world.network, "remember", timed(world.network.remember)),
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
