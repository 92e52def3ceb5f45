"""Sample windows of consecutive steps for training, in which every recorded step has equal weight.

For an episode of T steps and windows of t <= T, a raw start s is uniform on -(t - 1) ... T - 1 and is clamped to
0 ... T - t, so windows stay inside the episode and need no padding. Clamping oversamples both ends: step i is in

    coverage(i) = number of starts strictly between the ends that reach i  +  t [i < t]  +  t [i >= T - t]

of the T + t - 1 raw starts (2t - 1 if T = t), so its weight is t / coverage(i), in [1/2, 1]. Episodes are sampled in
proportion to their raw starts; then the expected weight of every recorded step is the same. An episode shorter than t
starts at 0 and repeats its last frame and action; repeated steps have weight 0, real ones t / (T + t - 1).

So an episode ends at the last step of a window, and a model whose state is empty at the window's start could learn to
predict termination, or what leads to it, by counting steps. With ``crop_at_episode_ends``, windows are not clamped but
cropped where they cross the start or the end of their episode, and padded to t steps. The age of the state then says
next to nothing about termination, and every real step weighs 1.

Where rewards are rare, so is what is seen before them. With ``before_reward``, a share of the windows starts shortly
before a reward, instead of anywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dreamenv.data.checks import no_rewards
from dreamenv.data.steps import StepStore, rewarded_steps
from dreamenv.data.store import FrameStore
from dreamenv.errors import ConfigError, DatasetError
from dreamenv.frames import frames_to_model
from dreamenv.world_model import Batch

__all__ = ["WindowSampler", "read_windows", "windows_for_evaluation"]

_Rows = npt.NDArray[np.int64]

_MOST_STEPS_TO_REWARD = 32  # from the start of a window that is to show what is rewarded, if it is shorter than that


class WindowSampler:
    """Returns batches of windows as a pure function of (seed, step), so that training resumes exactly.

    Args:
        store: the recording, or another store of steps.
        batch_size: b, windows per batch.
        sequence_length: t, steps per window.
        seed: at least 0.
        features: (n, ...) one row per frame of the store, to return instead of frames: floats as float32, integers as
            int64.
        crop_at_episode_ends: crop windows at the episode's ends instead of clamping them, see the module's docstring.
        before_reward: share of the windows that start before a positive reward, at most so many steps as a window has,
            or 32 if it has fewer. Every reward of the recording is as likely.

    Raises:
        DatasetError: the number of features is not the number of frames, or there is no reward for windows to start
            before.
        ConfigError: a size that is not positive, a negative seed, or a share outside of [0, 1].
    """

    def __init__(
        self,
        store: StepStore,
        *,
        batch_size: int,
        sequence_length: int,
        seed: int,
        features: npt.NDArray[Any] | None = None,
        crop_at_episode_ends: bool = False,
        before_reward: float = 0.0,
    ) -> None:
        if batch_size < 1 or sequence_length < 1:
            raise ConfigError(
                f"batch_size and sequence_length must be at least 1, not {batch_size}, {sequence_length}."
            )
        if seed < 0:
            raise ConfigError(f"seed must be at least 0, not {seed}.")
        if not 0 <= before_reward <= 1:
            raise ConfigError(f"before_reward must be in [0, 1], not {before_reward}.")
        if features is not None and len(features) != len(store.frames):
            raise DatasetError(
                f"there are {len(features)} features for {len(store.frames)} frames; compute them for this dataset."
            )
        self.store, self.batch_size, self.sequence_length, self.seed = store, batch_size, sequence_length, seed
        self.features, self.crop_at_episode_ends = features, crop_at_episode_ends
        self.before_reward = before_reward
        self._ends = np.cumsum(store.lengths + sequence_length - 1)
        self._rewarded = rewarded_steps(store) if before_reward > 0 else np.empty((0, 2), np.int64)
        if before_reward > 0 and len(self._rewarded) == 0:
            raise no_rewards("before_reward", before_reward)

    def batch(self, step: int, device: torch.device | str = "cpu") -> Batch:
        """Return the batch of a step, with a generator on the device that is seeded by the step."""
        device, length = torch.device(device), self.sequence_length
        random = np.random.default_rng((self.seed, step))
        chosen = random.integers(self._ends[-1], size=self.batch_size)
        episode = np.searchsorted(self._ends, chosen, side="right")
        raw = chosen - (self._ends[episode] - self.store.lengths[episode] - length + 1) - (length - 1)
        if len(self._rewarded) > 0:
            self._move_before_rewards(episode, raw, random)
        steps = self.store.lengths[episode]
        if self.crop_at_episode_ends:
            begin = np.maximum(raw, 0)
            real = np.minimum(steps, raw + length) - begin
            weights = (np.arange(length) < real[:, None]).astype(np.float32)
        else:
            begin, real = np.clip(raw, 0, np.maximum(steps - length, 0)), np.minimum(steps, length)
            weights = _weights(begin, steps, length)
        generator = torch.Generator(device).manual_seed(int(random.integers(2**63)))
        return _gather(
            self.store,
            self.store.starts[episode] + begin,
            real,
            length,
            weights,
            device,
            features=self.features,
            generator=generator,
        )

    def _move_before_rewards(self, episode: _Rows, raw: _Rows, random: np.random.Generator) -> None:
        """Let a share of the windows, drawn anew for every batch, start before rewards."""
        moved = np.flatnonzero(random.random(self.batch_size) < self.before_reward)
        rewarded = self._rewarded[random.integers(len(self._rewarded), size=len(moved))]
        back = random.integers(max(self.sequence_length, _MOST_STEPS_TO_REWARD), size=len(moved))
        episode[moved], raw[moved] = rewarded[:, 0], np.maximum(rewarded[:, 1] - back, 1 - self.sequence_length)


def windows_for_evaluation(store: FrameStore, horizon: int, count: int, seed: int) -> _Rows:
    """Sample distinct windows of ``horizon`` steps, uniformly among all that fit into an episode.

    Returns:
        (m,) int64, sorted rows of the store; m is count, or fewer if there are fewer.

    Raises:
        DatasetError: every episode is shorter than the horizon.
    """
    if horizon < 1 or count < 1:
        raise ConfigError(f"horizon and count must be at least 1, not {horizon}, {count}.")
    fitting = np.maximum(store.lengths - horizon + 1, 0)
    ends = np.cumsum(fitting)
    if ends[-1] == 0:
        raise DatasetError(
            f"no episode of {store.dataset.path} has {horizon} steps; the longest of these has {store.lengths.max()}. "
            "Ask for a shorter horizon or record longer episodes."
        )
    random = np.random.default_rng((seed, horizon))
    chosen = np.sort(random.choice(ends[-1], size=min(count, ends[-1]), replace=False))
    episode = np.searchsorted(ends, chosen, side="right")
    rows: _Rows = store.starts[episode] + chosen - (ends[episode] - fitting[episode])
    return rows


def read_windows(store: FrameStore, rows: _Rows, horizon: int, device: torch.device | str = "cpu") -> Batch:
    """Read the windows of `windows_for_evaluation`; all weights are 1."""
    whole = np.full(len(rows), horizon)
    ones = np.ones((len(rows), horizon), np.float32)
    return _gather(store, rows, whole, horizon, ones, torch.device(device))


def _weights(begin: _Rows, steps: _Rows, length: int) -> npt.NDArray[np.float32]:
    """Return (b, t) float32, the weights (see the module's docstring) of windows that start at these steps."""
    step = begin[:, None] + np.arange(length)  # b t
    last = (steps - length)[:, None]
    inner = np.minimum(step, last - 1) - np.maximum(step - length + 1, 1) + 1
    coverage = np.maximum(inner, 0) + length * (step < length) + length * (step >= last)
    # With one possible start all raw starts lead to it.
    coverage = np.where(last > 0, coverage, (steps + length - 1)[:, None])
    weights: npt.NDArray[np.float32] = np.where(step < steps[:, None], length / coverage, 0.0).astype(np.float32)
    return weights


def _gather(
    store: StepStore,
    rows: _Rows,
    real: _Rows,
    length: int,
    weights: npt.NDArray[np.float32],
    device: torch.device,
    *,
    features: npt.NDArray[Any] | None = None,
    generator: torch.Generator | None = None,
) -> Batch:
    """Read b windows of ``length`` steps from these rows; the first ``real`` steps are recorded, the rest padding."""
    count, (h, w, c) = len(rows), store.frames.shape[1:]
    step_rows = rows[:, None] + 1 + np.minimum(np.arange(length), real[:, None] - 1)  # b t, the rows of the steps
    if features is None:
        first, frames = np.empty((count, h, w, c), np.uint8), np.empty((count, length, h, w, c), np.uint8)
        for i, row in enumerate(rows):
            first[i] = store.frames[row]
            _copy(frames[i], store.frames, row + 1, int(real[i]))
        first_frame, next_frames = (frames_to_model(part, device, channels_last=True) for part in (first, frames))
        window_features = None
    else:
        values = np.empty((count, length + 1, *features.shape[1:]), features.dtype)
        for i, row in enumerate(rows):
            _copy(values[i], features, row, int(real[i]) + 1)
        first_frame = torch.empty((count, 0, h, w), device=device)
        next_frames = torch.empty((count, length, 0, h, w), device=device)
        tensor = torch.from_numpy(values).to(device)
        window_features = tensor.to(torch.float32 if tensor.is_floating_point() else torch.int64)
    dtype = torch.float32 if store.actions.dtype.kind == "f" else torch.int64
    padding = torch.from_numpy(weights > 0).to(device)
    return Batch(
        first_frame=first_frame,
        frames=next_frames,
        actions=torch.from_numpy(store.actions[step_rows]).to(device, dtype),
        rewards=torch.from_numpy(store.rewards[step_rows]).to(device) * padding,
        terminated=torch.from_numpy(store.terminated[step_rows]).to(device) & padding,
        weight=torch.from_numpy(weights).to(device),
        features=window_features,
        prompts=None if store.prompts is None else torch.from_numpy(store.prompts[step_rows]).to(device, torch.int64),
        generator=generator,
    )


def _copy(into: npt.NDArray[Any], source: npt.NDArray[Any], row: int, real: int) -> None:
    """Copy ``real`` consecutive rows, and pad with the last one."""
    into[:real] = source[row : row + real]
    into[real:] = into[real - 1]
