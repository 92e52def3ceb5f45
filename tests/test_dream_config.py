"""One configuration says how to dream, wherever a dream is made."""

from __future__ import annotations

import dataclasses
import json

import gymnasium as gym
import numpy as np
import pytest
from drifting import make_world

from dreamenv import DreamConfig, DreamEnv, DreamVectorEnv
from dreamenv.agents import DreamVecEnv
from dreamenv.errors import ConfigError, UnknownKeywordError

ID = "dreamenv:dreamenv/Dream-v0"


def test_a_configuration_and_the_same_keywords_make_the_same_dream():
    world, settings = make_world(doubt=0.25), {"horizon": 3, "uncertainty_penalty": 2.0, "temperature": (0.5, 1.5)}
    runs = []
    for given in (settings, {"config": DreamConfig(**settings)}):
        env = DreamVectorEnv(world, 2, **given)
        frames, _ = env.reset(seed=0)
        steps = [env.step(np.array([1, 2])) for _ in range(3)]
        runs.append((frames, *[part for step in steps for part in step[:4]]))
    for one, other in zip(*runs, strict=True):
        np.testing.assert_array_equal(one, other)
    assert steps[-1][3].all()


def test_keywords_replace_single_fields_of_a_configuration():
    config = DreamConfig(horizon=3, temperature=0.5)
    env = DreamVectorEnv(make_world(), 1, config=config, horizon=7)
    assert env.config == dataclasses.replace(config, horizon=7)
    assert env.horizon == 7
    assert config.horizon == 3


@pytest.mark.parametrize("given", [{"horizon": 9}, {"config": DreamConfig(horizon=9)}])
def test_every_way_to_make_a_dream_takes_configuration_and_keywords(given):
    world = make_world()
    assert gym.make(ID, world=world, observation="latent", **given).unwrapped.config.horizon == 9
    assert gym.make_vec(ID, num_envs=3, world=world, **given).unwrapped.config.horizon == 9
    assert DreamEnv(world, **given).config.horizon == 9
    assert DreamVecEnv(world, num_envs=4, observation="latent", **given).dreams.config.horizon == 9


def registered(world, **given):
    return gym.make(ID, world=world, **given)


@pytest.mark.parametrize("make", [DreamEnv, DreamVectorEnv, DreamVecEnv, registered])
@pytest.mark.parametrize(("wrong", "meant"), [("horizn", "horizon"), ("obsevation", "observation"), ("zzz", "compile")])
def test_an_unknown_keyword_is_refused_by_name_with_a_suggestion(make, wrong, meant):
    with pytest.raises(UnknownKeywordError, match=f"'{wrong}'.*{meant}"):
        make(make_world(), **{wrong: 1})
    with pytest.raises(TypeError, match="unexpected keyword argument"):  # as of any Python function
        make(make_world(), **{wrong: 1})


def test_configurations_survive_json():
    config = DreamConfig(horizon=64, temperature=(1.0, 1.6), max_uncertainty=2.0, precision="bfloat16", compile=True)
    assert DreamConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    with pytest.raises(UnknownKeywordError, match=r"'temprature'.*'temperature'"):
        DreamConfig.from_json({"temprature": 1.0})


@pytest.mark.parametrize(
    "settings",
    [
        {"horizon": -1}, {"horizon": 2.5}, {"temperature": -1.0}, {"temperature": (2.0, 1.0)},
        {"temperature": (1.0, 1.2, 1.5)}, {"temperature": "hot"}, {"temperature": float("nan")},
        {"temperature": float("inf")}, {"uncertainty_penalty": -1.0}, {"uncertainty_penalty": float("nan")},
        {"max_uncertainty": -0.5}, {"max_uncertainty": float("nan")}, {"precision": "float16"}, {"precision": "auto"},
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused_when_they_are_written(settings):
    (name, value) = next(iter(settings.items()))
    with pytest.raises(ConfigError, match=name) as refusal:
        DreamConfig(**settings)
    assert str(value) in str(refusal.value)
