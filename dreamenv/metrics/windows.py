"""Dream and predict windows of recorded episodes, a few at a time to bound memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dreamenv.capabilities import SupportsPrompt, SupportsReconstruct
from dreamenv.codecs.codec import Codec
from dreamenv.data.store import FrameStore
from dreamenv.data.windows import read_windows
from dreamenv.errors import DatasetError
from dreamenv.frames import frames_to_model
from dreamenv.world_model import Batch, State

__all__ = ["dreamed", "dreamed_ends", "longest_horizon", "predict_one_step", "reconstructed"]

_ROWS = 16  # windows at a time: 84 MB of 64x64 frames for 108 steps
_FRAMES = 64  # frames reconstructed at a time
_EPISODES, _STEPS = 64, 16  # episodes and steps at a time when predicting one step ahead


def longest_horizon(store: FrameStore, context: int, limit: int) -> int:
    """Return the most steps that can follow a context in some episode, at most limit.

    Raises:
        DatasetError: no episode has more steps than the context.
    """
    longest = int(store.lengths.max())
    if longest <= context:
        raise DatasetError(
            f"no episode has more than {context} steps, the context (the longest has {longest}). Use a shorter context "
            "or record longer episodes."
        )
    return min(limit, longest - context)


@torch.no_grad()
def dreamed(
    model: Any,
    store: FrameStore,
    rows: npt.NDArray[np.int64],
    *,
    context: int,
    horizon: int,
    seed: int,
    device: torch.device | str,
) -> Iterator[tuple[Batch, Tensor]]:
    """Observe the context of each window, then imagine its horizon under the recorded actions, and its first caption.

    Args:
        model: a world model.
        store: of the recorded episodes.
        rows: (n,) rows of the store at which windows begin.
        context: m, steps observed; may be 0.
        horizon: k, steps imagined.
        seed: of the dreams.
        device: where the model is.

    Yields:
        A few windows (of m + k steps) and the frames imagined, (b, k, c, h, w), on the device.
    """
    for first in range(0, len(rows), _ROWS):
        batch = read_windows(store, rows[first : first + _ROWS], context + horizon, device)
        state = _after_context(model, batch, context, first, seed)
        imagined, _ = model.imagine(state, _whole_chunks(batch.actions[:, context:], model.spec.chunk))
        yield batch, imagined.frames[:, :horizon]


@torch.no_grad()
def dreamed_ends(
    model: Any,
    store: FrameStore,
    rows: npt.NDArray[np.int64],
    *,
    context: int,
    horizon: int,
    seed: int,
    device: torch.device | str,
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Dream as `dreamed` does, but decode only the frame at the horizon.

    Yields:
        For a few windows, on the CPU: the imagined frames, the real frames and the last observed frames, each
        (b, c, h, w), and whether the real frame counts (b,): a terminal frame may be anything.
    """
    chunk = model.spec.chunk
    skipped = (horizon - 1) // chunk * chunk
    for first in range(0, len(rows), _ROWS):
        batch = read_windows(store, rows[first : first + _ROWS], context + horizon, device)
        state = _after_context(model, batch, context, first, seed)
        actions = _whole_chunks(batch.actions[:, context:], chunk)
        if skipped:
            _, state = model.imagine(state, actions[:, :skipped], decode=False)
        imagined, _ = model.imagine(state, actions[:, skipped:])
        last = batch.frames[:, context - 1] if context else batch.first_frame
        dream = imagined.frames[:, horizon - 1 - skipped]
        yield dream.cpu(), batch.frames[:, -1].cpu(), last.cpu(), ~batch.terminated[:, -1].cpu()


@torch.no_grad()
def predict_one_step(
    model: Any, store: FrameStore, *, steps: int, seed: int, device: torch.device | str
) -> Iterator[dict[str, npt.NDArray[np.float64]]]:
    """Predict every step of whole episodes from all steps before it.

    Args:
        model: a world model.
        store: of the recorded episodes.
        steps: episodes are taken, in a random order, until they have so many steps.
        seed: of that order and of the model's samples.
        device: where the model is.

    Yields:
        For some of the steps, (n,) each: ``reward``, ``real_reward``, ``termination`` (a probability),
        ``real_termination``.
    """
    order = np.random.default_rng((seed, 0xCA11)).permutation(len(store.lengths))
    count = int(np.searchsorted(np.cumsum(store.lengths[order]), steps)) + 1
    # Longest first: as a batch runs on, the episodes that have ended are its last rows and are dropped.
    chosen = np.asarray(sorted(order[:count], key=lambda episode: -store.lengths[episode]))
    for first in range(0, len(chosen), _EPISODES):
        episodes = chosen[first : first + _EPISODES]
        lengths, starts = store.lengths[episodes], store.starts[episodes]
        seeds = torch.arange(first, first + len(episodes), device=device) + (seed << 32)
        state = model.start(frames_to_model(store.frames[starts], device, channels_last=True), seeds)
        for at in range(0, int(lengths.max()), _STEPS):
            running = int((lengths > at).sum())
            lengths, starts, state = lengths[:running], starts[:running], state[:running]
            reach = np.arange(at, min(at + _STEPS, int(lengths.max())))
            rows = (
                starts[:, None] + 1 + np.minimum(reach, lengths[:, None] - 1)
            )  # b t; past the end the last step again
            inside = reach < lengths[:, None]
            actions = torch.from_numpy(store.actions[rows]).to(device)
            frames = frames_to_model(store.frames[rows], device, channels_last=True)
            prompts = None if store.prompts is None else torch.from_numpy(store.prompts[rows]).to(device, torch.int64)
            rewards, terminations, state = _predict_steps(model, state, actions, frames, prompts)
            yield {
                "reward": rewards[inside],
                "real_reward": store.rewards[rows][inside].astype(np.float64),
                "termination": terminations[inside],
                "real_termination": store.terminated[rows][inside].astype(np.float64),
            }


@torch.no_grad()
def reconstructed(model: Any, frames: Tensor, device: torch.device | str) -> Tensor | None:
    """Return frames as the model's codec alone shows them; None if it has none that works frame by frame."""
    codec = getattr(model, "codec", None)

    def reconstruct(part: Tensor) -> Tensor:
        if isinstance(model, SupportsReconstruct):
            return model.reconstruct(part)
        assert isinstance(codec, Codec)
        return codec.decode(codec.encode(part[:, None]))[:, 0]

    if not isinstance(model, SupportsReconstruct) and not (isinstance(codec, Codec) and codec.stride == 1):
        return None
    blocks = [reconstruct(frames[i : i + _FRAMES].to(device)).cpu() for i in range(0, len(frames), _FRAMES)]
    return torch.cat(blocks)


def _after_context(model: Any, batch: Batch, context: int, first_row: int, seed: int) -> State:
    b = batch.actions.shape[0]
    seeds = torch.arange(first_row, first_row + b, device=batch.actions.device) + (seed << 32)
    state: State = model.start(batch.first_frame, seeds)
    if context:
        state = model.observe(state, batch.actions[:, :context], batch.frames[:, :context])
    if batch.prompts is not None and isinstance(model, SupportsPrompt):
        state = model.prompt(state, batch.prompts[:, context])
    return state


def _predict_steps(
    model: Any, state: State, actions: Tensor, frames: Tensor, prompts: Tensor | None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], State]:
    rewards, terminations = [], []
    for step in range(actions.shape[1]):
        action = actions[:, step : step + 1]
        if prompts is not None and isinstance(model, SupportsPrompt):
            state = model.prompt(state, prompts[:, step])
        imagined, _ = model.imagine(state, _whole_chunks(action, model.spec.chunk), decode=False)
        rewards.append(imagined.expected_rewards[:, 0])
        terminations.append(imagined.termination[:, 0])
        state = model.observe(state, action, frames[:, step : step + 1])
    return torch.stack(rewards, 1).double().cpu().numpy(), torch.stack(terminations, 1).double().cpu().numpy(), state


def _whole_chunks(actions: Tensor, chunk: int) -> Tensor:
    """Repeat the last action until the steps are a multiple of the chunk."""
    missing = -actions.shape[1] % chunk
    return torch.cat((actions, actions[:, -1:].expand(-1, missing, *actions.shape[2:])), dim=1) if missing else actions
