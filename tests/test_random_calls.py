"""A caller that tries everything at random: every call returns, or raises an error of the project's own.

After any error the environment goes on: a plain reset and step always work, until it is closed.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from drifting import make_world
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tensordict import TensorDict

from dreamenv.agents import DreamVecEnv
from dreamenv.dream import DreamEnv, DreamVectorEnv
from dreamenv.errors import ClosedError, DreamenvError, ResetNeededError

ROWS = 3
SPACES = {
    "discrete": gym.spaces.Discrete(3),
    "box": gym.spaces.Box(-1, 1, (2,)),
    "dict": gym.spaces.Dict({"jump": gym.spaces.Discrete(2), "look": gym.spaces.Box(-1, 1, (2,))}),
}
ODD = [
    None, True, False, 0, 1, -1, 2, 3, 10**30, -(10**30), 2**63, 2**63 - 1, 2.5, math.inf, -math.inf, math.nan, 1j, "",
    "episode", "start", b"x", [], [0], [0] * ROWS, [1, 2, 0], [None] * ROWS, ["episode", None, 1], [[1], [2, 3], 4], {},
    {"jump": 1}, {1: 2}, (), (0, 1, 2), object(), len, np.int64(1), np.uint8(2), np.float32(0.5), np.float64("nan"),
    np.bool_(True), np.array(1), np.zeros(ROWS), np.zeros(ROWS, int), np.zeros((ROWS, 2), np.float32),
    np.ones(ROWS, bool), np.array(["a"] * ROWS), np.array([None] * ROWS), torch.zeros(ROWS), torch.tensor(1),
    torch.zeros(ROWS, dtype=torch.int64), torch.zeros(ROWS, 2, requires_grad=True), torch.zeros(ROWS, 2).bfloat16(),
    TensorDict({}, [ROWS]),
]  # fmt: skip
LEAVES = [torch.nan, torch.inf, -1, 0, 2**62 + 1]


class Caller:
    """Makes random calls of one environment and counts how they ended."""

    def __init__(self, seed: int, space: str, chunk: int) -> None:
        self.random = np.random.default_rng(seed)
        world = make_world(space=SPACES[space], chunk=chunk, termination=0.1)
        mode = ("NextStep", "SameStep", "Disabled")[int(self.random.integers(3))]
        self.failing = False
        self.envs: list[Any] = [
            DreamVectorEnv(world, ROWS, horizon=6, autoreset_mode=mode, output=self.pick(["numpy", "torch"])),
            DreamEnv(world, horizon=6, observation="latent", render_mode="rgb_array"),
            DreamVectorEnv(world, ROWS, horizon=6, reward_fn=self._reward),
            DreamVecEnv(world, ROWS, horizon=6),
        ]
        self.world, self.states, self.counts = world, [], {"returned": 0, "refused": 0}

    def pick(self, values: Any) -> Any:
        return values[int(self.random.integers(len(values)))]

    def call(self, env: Any, what: str) -> None:
        try:
            getattr(self, what)(env)
            self.counts["returned"] += 1
        except ZeroDivisionError:
            assert self.failing
        except DreamenvError:
            self.counts["refused"] += 1

    def _reward(self, frames: Any, actions: Any) -> Any:
        self.failing = bool(self.random.integers(8) == 0)
        if self.failing:
            raise ZeroDivisionError
        return self.pick(ODD) if self.random.integers(8) == 0 else np.ones(len(frames))

    # Calls

    def reset(self, env: Any) -> None:
        options = self.pick([None, None, {}, {"start": self.pick(ODD)}, {"reset_mask": self.pick(ODD)}, self.pick(ODD)])
        if isinstance(env, DreamVecEnv):
            env.set_options(options if isinstance(options, dict) else None)
            env.reset()
        else:
            env.reset(seed=self.pick([None, 1, *ODD]), options=options)

    def step(self, env: Any) -> None:
        env.step(self.pick(ODD))

    def step_well(self, env: Any) -> None:
        env.step(self.well(env))

    def well(self, env: Any) -> Any:
        if isinstance(env, DreamVecEnv):
            return np.stack([env.action_space.sample() for _ in range(ROWS)])
        return env.action_space.sample()

    def set_state(self, env: Any) -> None:
        if isinstance(env, DreamVecEnv):
            return
        state = self.pick([*self.states, None]) if self.states else self.pick(ODD)
        if isinstance(state, TensorDict) and len(state.keys()) and self.random.integers(2):
            state = state.clone()
            path = self.pick([*state.keys(include_nested=True, leaves_only=True)])
            value, bad = state[path], self.pick(LEAVES)
            whole = value.dtype in (torch.bool, torch.uint8) or (
                not value.is_floating_point() and not math.isfinite(bad)
            )
            state[path] = value[..., None] if whole else torch.full_like(value, bad)
        env.set_state(state)

    def get_state(self, env: Any) -> None:
        if not isinstance(env, DreamVecEnv):
            self.states = [*self.states[-5:], env.get_state()]

    def branch(self, env: Any) -> None:
        if isinstance(env, DreamEnv):
            self.states.append(env.branch(self.pick(ODD), seed=self.pick(ODD)))
        elif isinstance(env, DreamVectorEnv):
            self.states.append(env.branch(self.pick(ODD), self.pick([None, *ODD]), seed=self.pick(ODD)))

    def render(self, env: Any) -> None:
        env.render() if not isinstance(env, DreamVecEnv) else env.get_images()

    def make(self, env: Any) -> None:
        name = self.pick([
            "num_envs", "horizon", "temperature", "uncertainty_penalty", "max_uncertainty", "precision", "observation",
            "output", "autoreset_mode", "render_mode", "render_scale", "reward_fn", "starts", "config", "device",
            "compile", "episode_starts_only", "render_start", "world", "hroizon",
        ])  # fmt: skip
        DreamVectorEnv(**{"world": self.world, name: self.pick(ODD)}).close()

    def seed(self, env: Any) -> None:
        if isinstance(env, DreamVecEnv):
            env.seed(self.pick(ODD))

    def check(self, env: Any) -> None:
        """Whatever was called before, it works."""
        self.failing, function = False, getattr(env, "_reward_fn", None)
        if function is not None:
            env._reward_fn = lambda frames, actions: np.zeros(len(frames))
        env.reset()
        env.step(self.well(env))
        if function is not None:
            env._reward_fn = function


CALLS = [
    "reset", "step", "step_well", "step_well", "step_well", "set_state", "get_state", "branch", "render", "make", "seed"
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*predicts no rewards")
@pytest.mark.parametrize("chunk", [1, 2])
@pytest.mark.parametrize("space", SPACES)
def test_thousands_of_random_calls_return_or_are_refused(space, chunk):
    caller = Caller(len(space) + chunk, space, chunk)
    for number in range(1700):
        env = caller.pick(caller.envs)
        caller.call(env, caller.pick(CALLS))
        if number % 25 == 0:
            caller.check(env)
    assert caller.counts["returned"] > 300
    assert caller.counts["refused"] > 300
    for env in caller.envs:
        caller.check(env)
        env.close()
        with pytest.raises(ClosedError):
            env.reset()


class Dream(RuleBasedStateMachine):
    """One dream under calls in any order, beside a plain account of what must hold."""

    @initialize(chunk=st.sampled_from([1, 2]))
    def make(self, chunk: int) -> None:
        self.env = DreamEnv(make_world(chunk=chunk), horizon=4)
        self.steps: int | None = None
        self.closed = False
        self.kept: list[tuple[Any, int]] = []

    @rule(seed=st.sampled_from([None, 0, 7, np.int64(3)]), start=st.sampled_from([None, 0, 19, "episode"]))
    def reset(self, seed: Any, start: Any) -> None:
        if self.closed:
            with pytest.raises(ClosedError):
                self.env.reset(seed=seed)
            return
        observation, info = self.env.reset(seed=seed, options={"start": start})
        assert observation in self.env.observation_space
        assert start in (None, "episode", info["start"])
        self.steps = 0

    @rule(seed=st.sampled_from([-1, 1.5, "one", True, 2**63]), start=st.sampled_from([None, 20, -1, 0.5, "end"]))
    def reset_badly(self, seed: Any, start: Any) -> None:
        with pytest.raises(DreamenvError):
            self.env.reset(seed=seed, options={"start": start})

    @rule(action=st.sampled_from([0, 1, 2, np.int8(1), np.array(2), torch.tensor(0)]))
    def step(self, action: Any) -> None:
        if self.closed or self.steps in (None, 4):
            with pytest.raises(ClosedError if self.closed else ResetNeededError):
                self.env.step(action)
            return
        observation, _, terminated, truncated, _ = self.env.step(action)
        self.steps += 1
        assert observation in self.env.observation_space
        assert not terminated
        assert truncated == (self.steps == 4)

    @rule(action=st.sampled_from([3, -1, 0.5, None, "left", [0], True]))
    def step_badly(self, action: Any) -> None:
        with pytest.raises(DreamenvError):
            self.env.step(action)

    @rule()
    def keep(self) -> None:
        if self.steps is not None:
            self.kept.append((self.env.get_state(), self.steps))

    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        if self.kept and not self.closed:
            state, self.steps = data.draw(st.sampled_from(self.kept))
            self.env.set_state(state)

    @rule(closing=st.integers(0, 9))
    def close(self, closing: int) -> None:
        if closing == 9:
            self.env.close()
            self.closed = True

    @invariant()
    def counts_its_steps(self) -> None:
        if getattr(self, "steps", None) is not None:
            assert int(self.env.get_state()["steps"][0]) == self.steps


TestDream = Dream.TestCase
TestDream.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
