"""Promises of evaluation: every episode counted once, whatever the parallelism."""

from __future__ import annotations

import dataclasses
import json

import gymnasium as gym
import numpy as np
import pytest
from drifting import make_world
from scipy import stats
from test_agents_environments import FRAMES, LATENTS, Brightness

from dreamenv.agents import AgentConfig, NetworkConfig, RandomActor, RealVecEnv, SavedPolicy, evaluate
from dreamenv.agents.episodes import play_episodes
from dreamenv.agents.networks import build_policy
from dreamenv.errors import ConfigError, SeedError, WorldMismatchError
from dreamenv.world import World

SPACE = gym.spaces.Discrete(3)


class Uneven(Brightness):
    """Episodes of 1 to 9 steps, by their seed."""

    def reset(self, *, seed=None, options=None):
        frame, info = super().reset(seed=seed)
        self.steps = 1 + seed % 9
        return frame, info


def make_policy(observation=LATENTS, world=None, algorithm="ppo"):
    world = world or make_world()
    config = AgentConfig(
        observation=observation,
        algorithm=algorithm,
        network=NetworkConfig(net_arch=(8,), lstm_hidden_size=8, channels=(4, 4, 4)),
    )
    env = RealVecEnv(Brightness, 1, observation=observation, world=world)
    network = build_policy(config, env.observation_space, env.action_space)
    policy = SavedPolicy(
        config=config,
        network=network,
        observation_space=env.observation_space,
        action_space=env.action_space,
        world_hash=f"{world.fingerprint:016x}",
        provenance=world.provenance,
    )
    env.close()
    return policy


@pytest.mark.parametrize("rows", [1, 3, 8, 20])
def test_short_episodes_are_not_counted_more_often(rows):
    result = evaluate(RandomActor(SPACE), Uneven, episodes=18, num_envs=rows)
    assert result.lengths == [1 + seed % 9 for seed in range(18)]
    assert result.scores == [float(length) for length in result.lengths]
    assert result.seeds == list(range(18))
    assert result.successes == [True] * 18
    assert result.summary().mean == 5.0


@pytest.mark.parametrize("observation", [FRAMES, LATENTS])
@pytest.mark.parametrize("algorithm", ["ppo", "recurrent_ppo"])
def test_the_result_does_not_depend_on_the_number_of_rows(observation, algorithm):
    world = make_world()
    policy = make_policy(observation, world, algorithm)
    results = [evaluate(policy, Uneven, episodes=7, seed=5, num_envs=rows, world=world) for rows in (1, 4)]
    assert results[0].returns == results[1].returns
    assert len(set(results[0].returns)) > 1


def test_the_world_that_ships_gives_the_same_result_at_any_number_of_rows():
    """It supports bfloat16, which once was chosen by the number of rows."""
    world = World.default()
    actor = RandomActor(world.spec.action_space)
    lengths = [evaluate(actor, world, episodes=4, num_envs=rows, horizon=80).lengths for rows in (1, 2, 4)]
    assert lengths[0] == lengths[1] == lengths[2]
    assert len(set(lengths[0])) > 1


def test_a_dream_is_evaluated_from_episode_starts_with_returns():
    world = make_world()
    results = [evaluate(make_policy(world=world), world, episodes=5, num_envs=rows, horizon=6) for rows in (2, 5)]
    assert results[0].returns == results[1].returns
    assert results[0].lengths == [6] * 5
    assert results[0].truncated == [True] * 5
    assert results[0].scores is None
    assert results[0].target == "dream"
    assert results[0].values == results[0].returns


def test_other_seeds_are_other_episodes_and_sampling_differs_from_the_mode():
    world = make_world()
    policy = make_policy(world=world)
    returns = [
        evaluate(policy, Brightness, episodes=6, seed=seed, deterministic=mode, world=world).returns
        for seed, mode in ((0, False), (100, False), (0, True))
    ]
    assert returns[0] != returns[1]
    assert returns[0] != returns[2]


def test_the_summary_is_that_of_rliable():
    """rliable's IQM is scipy.stats.trim_mean(scores, 0.25); 1..8 without its lowest and highest quarter is 3..6."""
    world = make_world()
    result = play_episodes(RandomActor(SPACE), RealVecEnv(Uneven, 2), list(range(8)))
    assert result.scores == [1, 2, 3, 4, 5, 6, 7, 8]
    assert result.summary().iqm == 4.5 == stats.trim_mean(result.scores, 0.25)
    low, high = result.summary().iqm_interval
    assert low < 4.5 < high
    values = json.loads(json.dumps(result.to_json()))
    assert values["episodes"] == 8
    assert values["summary"]["iqm"] == 4.5
    assert values["success_rate"] == 1.0
    assert "steps survived" in str(evaluate(make_policy(world=world), Brightness, episodes=2, world=world))


def test_random_actions_are_uniform_and_repeatable():
    actor = RandomActor(SPACE)
    state = actor.start(np.arange(500))
    first, state = actor.act(np.zeros(500), state)
    second, _ = actor.act(np.zeros(500), state)
    assert (first != second).any()
    assert np.bincount(first).min() > 120
    np.testing.assert_array_equal(actor.act(np.zeros(500), actor.start(np.arange(500)))[0], first)


def test_bad_evaluations_are_named():
    world = make_world()
    policy = make_policy(world=world)
    with pytest.raises(ConfigError, match="episodes"):
        evaluate(policy, Brightness, episodes=0, world=world)
    with pytest.raises(SeedError, match="different"):
        evaluate(policy, Brightness, seeds=[1, 1], world=world)
    with pytest.raises(SeedError):
        evaluate(policy, Brightness, seed=-1, world=world)
    with pytest.raises(ConfigError, match=r"World\.load"):
        evaluate(policy, Brightness, episodes=1)
    with pytest.raises(ConfigError, match="another world"):
        evaluate(policy, Brightness, episodes=1, world=make_world(noise=0.5))
    reconstructed = make_policy(dataclasses.replace(FRAMES, reconstructed=True), world)
    with pytest.raises(ConfigError, match=r"reconstructed frames.*World\.load"):
        evaluate(reconstructed, Brightness, episodes=1)
    with pytest.raises(ConfigError, match="another world"):
        evaluate(reconstructed, Brightness, episodes=1, world=make_world(noise=0.5))
    with pytest.raises(ConfigError, match="another world"):
        evaluate(policy, make_world(noise=0.5), episodes=1)


@pytest.mark.parametrize("change", [{"frame_skip": 2}, {"action_table": [0, 2, 1]}, {"resize": "nearest"}])
def test_reality_unlike_the_policys_is_refused(change):
    policy = make_policy(FRAMES)
    with pytest.raises(WorldMismatchError, match=next(iter(change))):
        evaluate(policy, lambda: Brightness(**change), episodes=1)
