"""Old experience to rehearse while a world learns what is new: its own dreams, mixed into every batch.

A dream starts from the world's real segments (``starts/``), under actions as they were recorded. The segments' own
frames are part of it; what the world predicts of their rewards, of what follows, its rewards and its terminations
(sampled) is what it is to keep. So nothing of the old recording is needed, after pseudo-rehearsal (Robins 1995) and
generative replay (Shin et al. 2017).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dreamenv.data.memory import StepMemory
from dreamenv.data.policies import RandomPolicy
from dreamenv.data.starts import Starts
from dreamenv.data.steps import StepStore
from dreamenv.data.windows import WindowSampler
from dreamenv.errors import ConfigError
from dreamenv.frames import frames_to_model, frames_to_numpy
from dreamenv.training.random_state import eval_mode
from dreamenv.world import World
from dreamenv.world_model import Batch, Imagined, Stage

__all__ = ["dream_old_experience", "mixed_batches"]

_ROWS = 16  # dreams at a time
_DREAMS, _NEW, _OLD = 0xD4EA, 0, 1  # words of seeds


def dream_old_experience(world: World, *, steps: int, horizon: int, seed: int) -> StepMemory:
    """Dream what a world knows, from its own starts.

    Args:
        world: not changed.
        steps: how many, at least; the last dreams are finished.
        horizon: steps of each dream after its start, fewer where it terminates.
        seed: at least 0.

    Returns:
        The dreams as episodes, each with the real frames of its start.

    Raises:
        ConfigError: the world has no starts.
    """
    starts = world.starts
    if len(starts) == 0:
        raise ConfigError("this world has no starts to dream from; give an old recording to replay, or None.")
    random = np.random.default_rng((seed, _DREAMS))
    chunk = world.spec.chunk
    horizon = -(-horizon // chunk) * chunk
    longest = starts.frames.shape[1] + horizon + 1
    c, h, w = world.spec.frame_shape
    # A dream that terminates at once is one step and two frames.
    memory = StepMemory((h, w, c), world.spec.action_layout, 2 * steps + _ROWS * longest)
    with eval_mode(world.model, None, world.device):
        while memory.total_steps < steps:
            length = starts.lengths[random.integers(len(starts))]
            rows = random.choice(np.flatnonzero(starts.lengths == length), size=_ROWS)
            _dream(world, starts[rows], int(length), _draw_actions(world, horizon, random), random, memory)
    return memory


def mixed_batches(
    stage: Stage,
    new: StepStore,
    old: StepStore | None,
    *,
    rehearsal: float,
    seed: int,
    device: torch.device,
    features: tuple[npt.NDArray[Any] | None, npt.NDArray[Any] | None] = (None, None),
) -> Callable[[int], Batch]:
    """Return a function that makes the batch of a step for a stage: new windows, and old ones below them.

    Args:
        stage: what will learn from them.
        new, old: what to read; None rehearses nothing.
        rehearsal: share of the old windows; there is at least one of each.
        seed: at least 0.
        device: of the batch.
        features: of the new and the old frames, see `WindowSampler`.
    """
    count = 0 if old is None else min(max(1, round(rehearsal * stage.batch_size)), max(1, stage.batch_size - 1))

    def sampler(store: StepStore, rows: int, word: int) -> WindowSampler:
        return WindowSampler(
            store,
            batch_size=rows,
            sequence_length=stage.sequence_length,
            seed=int(np.random.SeedSequence((seed, word)).generate_state(1, np.uint32)[0]),
            features=features[word],
            crop_at_episode_ends=stage.crop_at_episode_ends,
        )

    fresh = sampler(new, max(1, stage.batch_size - count), _NEW)
    known = None if old is None else sampler(old, count, _OLD)

    def make(step: int) -> Batch:
        batch = fresh.batch(step, device)
        return batch if known is None else _joined(batch, known.batch(step, device))

    return make


def _dream(
    world: World,
    starts: Starts,
    length: int,
    actions: npt.NDArray[Any],
    random: np.random.Generator,
    memory: StepMemory,
) -> None:
    """Dream from starts of one length under actions (b, k, *a), and write it down."""
    model, device = world.model, world.device

    def tensor(array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    before = starts.actions[:, :length].astype(actions.dtype)
    seen = frames_to_model(tensor(starts.frames[:, :length]))
    state = model.start(frames_to_model(tensor(starts.first_frames)), tensor(random.integers(2**62, size=len(starts))))
    earlier: list[npt.NDArray[Any]] = []
    for i in range(length):
        action = tensor(before[:, i : i + 1])
        predicted, _ = model.imagine(state, action.repeat_interleave(model.spec.chunk, dim=1), decode=False)
        earlier.append(predicted.rewards[:, :1].cpu().numpy())
        state = model.observe(state, action, seen[:, i : i + 1])
    imagined, _ = model.imagine(state, tensor(actions))
    ended, paid = _outcome(imagined, random)
    assert imagined.frames is not None
    frames = np.concatenate((starts.frames[:, :length], frames_to_numpy(imagined.frames)), axis=1)
    rewards = np.concatenate([*earlier, paid], axis=1)
    terminated = np.pad(ended, ((0, 0), (length, 0)))  # what was recorded went on
    acted = np.concatenate((before, actions), axis=1)
    for row in range(len(starts)):
        memory.begin(starts.first_frames[row], at_episode_start=bool(starts.at_episode_start[row]))
        for i in range(acted.shape[1]):
            memory.add(acted[row, i], frames[row, i], float(rewards[row, i]), terminated=bool(terminated[row, i]))
            if terminated[row, i]:
                break


def _outcome(imagined: Imagined, random: np.random.Generator) -> tuple[npt.NDArray[np.bool_], npt.NDArray[Any]]:
    """Sample which steps terminate, (b, k) bool; return them and the rewards, (b, k), given that."""
    termination, rewards = imagined.termination.cpu().numpy(), imagined.rewards.cpu().numpy()
    ended = random.random(termination.shape) < termination
    if imagined.terminal_rewards is not None:
        rewards = np.where(ended, imagined.terminal_rewards.cpu().numpy(), rewards)
    return ended, rewards


def _draw_actions(world: World, steps: int, random: np.random.Generator) -> npt.NDArray[Any]:
    """Draw actions (b, k, *a): recorded ones, a segment's after another's; uniform ones where none was recorded."""
    starts, layout = world.starts, world.spec.action_layout
    usable = np.flatnonzero(starts.lengths > 0)
    rows = []
    for _ in range(_ROWS):
        if len(usable) == 0:
            policy = RandomPolicy(layout.flat_space)
            policy.reset(int(random.integers(2**31)))
            rows.append(np.stack([policy.act(starts.first_frames[0]) for _ in range(steps)]).astype(layout.dtype))
            continue
        drawn: list[npt.NDArray[Any]] = []
        while sum(map(len, drawn)) < steps:
            row = int(random.choice(usable))
            drawn.append(starts.actions[row, : starts.lengths[row]])
        rows.append(np.concatenate(drawn)[:steps].astype(layout.dtype))
    return np.stack(rows)


def _joined(first: Batch, second: Batch) -> Batch:
    """Put the rows of two batches below each other."""

    def both(name: str) -> Tensor:
        return torch.cat((getattr(first, name), getattr(second, name)))

    return Batch(
        first_frame=both("first_frame"),
        frames=both("frames"),
        actions=both("actions"),
        rewards=both("rewards"),
        terminated=both("terminated"),
        weight=both("weight"),
        features=None if first.features is None else both("features"),
        prompts=_joined_prompts(first, second),
        generator=first.generator,
    )


def _joined_prompts(first: Batch, second: Batch) -> Tensor | None:
    """Put their prompts below each other; where only one has any, nothing is asked for in the other."""
    words = next((one.prompts.shape[-1] for one in (first, second) if one.prompts is not None), 0)
    if words == 0:
        return None

    def prompts(one: Batch) -> Tensor:
        if one.prompts is not None:
            return one.prompts
        return torch.zeros((*one.rewards.shape, words), dtype=torch.int64, device=one.rewards.device)

    return torch.cat((prompts(first), prompts(second)))
