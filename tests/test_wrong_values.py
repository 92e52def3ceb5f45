"""Functions that a user calls, each with one argument that cannot be: refused with an error of the project's own.

What an environment is called with is in test_random_calls.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from drifting import make_world
from test_evaluation import make_policy
from test_random_calls import ODD
from toy import ToyEnv, toy_dataset

from dreamenv import World, make_real
from dreamenv.agents import (
    AgentConfig,
    NetworkConfig,
    ObservationConfig,
    PPOConfig,
    SavedPolicy,
    evaluate,
    train_agent,
)
from dreamenv.backbones.rssm import presets
from dreamenv.data import Episode, EpisodeDataset, Provenance, RandomPolicy, Starts, StickyRandomPolicy, collect
from dreamenv.dream import DreamConfig, load_state, save_state
from dreamenv.errors import ConfigError, DreamenvError, SeedError
from dreamenv.presets import make_config
from dreamenv.training import OptimizerConfig, TrainConfig, train

SPACE = gym.spaces.Discrete(3)
ODDER = [*ODD, "x" * 300, "a\0", "~nobody/x", (8, 8), (1, 2, 3), [1.5], {0: 1}, b"", np.zeros(0)]
SMALL = {"total_steps": 4, "num_envs": 2, "ppo": PPOConfig(n_steps=2, batch_size=4), "network": NetworkConfig()}
FEW = {"steps": {"joint": 0, "dynamics": 0}, "starts": 1, "start_context": 1, "eval_windows": 1, "eval_horizon": 1}


def episode(**changes: Any) -> Episode:
    values = {"frames": np.zeros((6, 16, 16, 3), np.uint8), "actions": np.zeros(5, int), "rewards": np.zeros(5)}
    return Episode(**{**values, "terminated": True, "truncated": False, **changes})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "kind", [TrainConfig, OptimizerConfig, AgentConfig, PPOConfig, NetworkConfig, ObservationConfig, DreamConfig]
)
def test_a_setting_works_or_is_refused(kind):
    for setting, value in itertools.product(dataclasses.fields(kind), ODDER):
        try:
            made = kind(**{setting.name: value})
        except DreamenvError:
            continue
        if hasattr(made, "to_json"):
            assert kind.from_json(made.to_json()) == made


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [
    "episode", "dataset", "world", "policy", "state", "split", "append", "create", "starts", "sticky", "preset", "act",
    "start", "make_real", "collect", "evaluate", "train", "train_agent",
])  # fmt: skip
def test_an_argument_works_or_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    dataset, world, policy = toy_dataset(tmp_path / "toy", 3), make_world(noise=0.03), make_policy()
    fresh = (tmp_path / f"out{number}" for number in itertools.count())
    config = TrainConfig(**FEW, progress=False)
    frames = partial(RandomPolicy, SPACE)

    def one_of(function, **usual):
        """Call the function with one of these arguments replaced, each in turn."""
        return [lambda value, key=key: function(**{**usual, key: value}) for key in usual]

    calls = {
        "episode": one_of(episode, frames=0, actions=0, rewards=0, seed=0, score=0),
        "dataset": [EpisodeDataset.open],
        "world": [World.load, world.save],
        "policy": [SavedPolicy.load, policy.save],
        "state": [load_state, lambda value: save_state(value, next(fresh))],
        "split": one_of(dataset.split, holdout=0.5, seed=0),
        "append": [dataset.append],
        "create": [lambda value: EpisodeDataset.create(value, Provenance(environment_id="a"), SPACE, (16, 16, 3)),
                   lambda value: EpisodeDataset.create(next(fresh), value, SPACE, (16, 16, 3)),
                   lambda value: EpisodeDataset.create(next(fresh), Provenance(environment_id="a"), value, (16, 16, 3)),
                   lambda value: EpisodeDataset.create(next(fresh), Provenance(environment_id="a"), SPACE, value)],
        "starts": one_of(partial(Starts.from_dataset, dataset), count=1, context=1, seed=0, before_reward=0.0),
        "sticky": [lambda value: StickyRandomPolicy(SPACE, value)],
        "preset": [make_config, lambda value: make_config("rssm", value)],
        "act": [lambda value: policy.act(value, policy.start(np.zeros(1, np.int64)))],
        "start": [policy.start],
        "make_real": one_of(
            lambda environment, **settings: make_real(environment, **settings).close(), environment=ToyEnv, size=None,
            frame_skip=None, max_episode_steps=None, frames=None, env_kwargs=None, reward=None, seed=None,
        ),
        "collect": one_of(
            lambda make_env, make_policy, path, steps, seed: collect(
                make_env, make_policy, next(fresh) if path is None else path, steps=min(steps, 3) if isinstance(
                    steps, int) else steps, seed=seed, num_workers=0, progress=False),
            make_env=ToyEnv, make_policy=frames, path=None, steps=2, seed=0,
        ),
        "evaluate": one_of(
            lambda policy, target, **settings: evaluate(policy, target, horizon=2, **settings), policy=policy,
            target=world, seeds=[1], num_envs=1, world=None, observation=None, config=None,
        ),
        "train": one_of(
            lambda out, **rest: train(out=next(fresh) if out is None else out, **rest), config=config,
            backbone_config=presets.tiny(), dataset=dataset, out=None, initial=None, resume=True,
        ),
        "train_agent": one_of(
            lambda out, **rest: train_agent(out=next(fresh) if out is None else out, progress=False, **rest),
            config=AgentConfig(**SMALL), world=world, out=None, resume=True,
        ),
    }  # fmt: skip
    values = ODDER if name not in ("train", "train_agent", "evaluate", "collect") else ODDER[::3]
    refused = 0
    for call, value in itertools.product(calls[name], values):
        with contextlib.suppress(DreamenvError):
            call(value)
            continue
        refused += 1
    assert refused > len(values) // 3


def test_numbers_of_numpy_are_numbers():
    config = TrainConfig(seed=np.int64(3), log_every=np.int32(5), steps={"joint": np.int64(2)})
    assert TrainConfig.from_json(config.to_json()) == config
    assert type(config.steps["joint"]) is int


def test_more_episodes_than_anyone_waits_for_are_refused():
    with pytest.raises(ConfigError, match="episodes must be at most"):
        evaluate("random", make_world(), episodes=2**31 - 1)
    with pytest.raises(SeedError, match="seeds must be a list"):
        evaluate("random", make_world(), seeds=3)
