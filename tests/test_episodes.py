"""Promises of episodes, provenance and spaces."""

from __future__ import annotations

import dataclasses
import json

import gymnasium as gym
import numpy as np
import pytest
from toy import ToyEnv, play, random_episode

from dreamenv.data.episode import Episode
from dreamenv.data.provenance import Provenance
from dreamenv.data.spaces import space_from_json, space_to_json
from dreamenv.errors import ConfigError, DatasetError, EpisodeError, WorldMismatchError


def changed(episode, **values):
    return dataclasses.replace(episode, **values)


def test_an_episode_of_t_steps_has_t_actions_and_one_more_frame():
    episode = random_episode(5)
    assert len(episode) == 5
    assert episode.frames.shape == (6, 16, 16, 3)
    assert episode.rewards.dtype == np.float32
    assert "steps=5" in repr(episode)
    assert len(repr(episode)) < 300


def test_an_episode_without_steps_is_refused():
    with pytest.raises(EpisodeError, match="at least one step"):
        Episode(frames=np.zeros((1, 4, 4, 3), np.uint8), actions=[], rewards=[], terminated=True, truncated=False)


def test_as_many_frames_as_actions_is_refused():
    episode = random_episode(5)
    with pytest.raises(EpisodeError, match=r"5 actions need 6 frames.*not 5 frames"):
        changed(episode, frames=episode.frames[1:])


def test_mixed_frame_sizes_within_an_episode_are_refused_by_name():
    frames = [np.zeros((16, 16, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)]
    with pytest.raises(EpisodeError, match=r"different sizes \(8, 8, 3\), \(16, 16, 3\)"):
        Episode(frames=frames, actions=[0], rewards=[0.0], terminated=True, truncated=False)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rewards_that_are_no_numbers_are_refused_with_their_step(value):
    with pytest.raises(EpisodeError, match=f"reward of step 2 is {value}"):
        random_episode(4, rewards=[0, 0, value, 0])


def test_values_that_float32_or_json_cannot_hold_are_refused():
    with pytest.raises(EpisodeError, match="reward of step 1 is 1e\\+39"):
        random_episode(2, rewards=[0.0, 1e39])
    with pytest.raises(EpisodeError, match="action of step 0 is inf"):
        changed(random_episode(2), actions=np.array([1e39, 0.0]))
    with pytest.raises(EpisodeError, match="rewards must be"):
        random_episode(2, rewards=["good", "bad"])
    with pytest.raises(EpisodeError, match="score must be a finite number, or None, not nan"):
        changed(random_episode(2), score=float("nan"))


def test_actions_that_are_no_numbers_are_refused():
    with pytest.raises(EpisodeError, match="action of step 1 is nan"):
        changed(random_episode(2), actions=np.array([0.0, np.nan]))
    with pytest.raises(EpisodeError, match="must be numbers"):
        changed(random_episode(2), actions=np.array(["left", "right"]))


def test_frames_that_are_no_bytes_are_refused():
    with pytest.raises(EpisodeError, match=r"uint8, not .* float64"):
        changed(random_episode(1), frames=np.zeros((2, 4, 4, 3)))


def test_the_digest_distinguishes_episodes_and_ignores_the_policy():
    episode = play(1)
    assert episode.digest() == play(1).digest() == changed(episode, policy="another").digest()
    frames = episode.frames.copy()
    frames[-1, 0, 0, 0] ^= 1
    assert changed(episode, frames=frames).digest() != episode.digest()
    assert changed(episode, terminated=not episode.terminated).digest() != episode.digest()


def test_provenance_survives_json():
    here = ToyEnv().provenance
    there = Provenance.from_json(json.loads(json.dumps(here.to_json())))
    assert there == here
    with pytest.raises(DatasetError, match="unexpected keyword"):
        Provenance.from_json({**here.to_json(), "unheard_of": 1})


def test_provenance_takes_tuples_for_lists():
    assert Provenance(environment_id="a", action_table=[(0, 1)]) == Provenance(
        environment_id="a", action_table=[[0, 1]]
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [("action_table", [[0], [1], [-1]]), ("frame_skip", 8), ("frame_size", 32), ("resize", "nearest")],
)
def test_provenance_that_changes_frames_or_actions_does_not_match(name, value):
    here = ToyEnv().provenance
    with pytest.raises(WorldMismatchError, match=name) as error:
        here.check_matches(dataclasses.replace(here, **{name: value}))
    assert str(value) in str(error.value)


def test_provenance_that_keeps_frames_and_actions_matches():
    here = ToyEnv().provenance
    here.check_matches(dataclasses.replace(here, environment_kwargs={"lethal": False}, max_episode_steps=7))


def test_provenance_refuses_what_cannot_be():
    with pytest.raises(ConfigError, match="frame_skip"):
        Provenance(environment_id="a", frame_skip=0)
    with pytest.raises(ConfigError, match="max_episode_steps"):
        Provenance(environment_id="a", max_episode_steps=0)


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Discrete(5),
        gym.spaces.Discrete(5, start=-2),
        gym.spaces.MultiDiscrete([3, 4]),
        gym.spaces.MultiBinary(4),
        gym.spaces.MultiBinary([2, 3]),
        gym.spaces.Box(-1.0, 1.0, (3,), np.float32),
        gym.spaces.Box(-np.inf, np.inf, (2, 2), np.float64),
        gym.spaces.Box(0, 255, (4, 4, 3), np.uint8),
        gym.spaces.Dict({"camera": gym.spaces.Box(-10, 10, (2,)), "jump": gym.spaces.Discrete(2)}),
    ],
    ids=str,
)
def test_spaces_survive_json(space):
    again = space_from_json(json.loads(json.dumps(space_to_json(space))))
    assert again == space
    assert again.dtype == space.dtype


def test_minari_reads_our_spaces():
    from minari.serialization import deserialize_space

    for space in (gym.spaces.Discrete(5, start=1), gym.spaces.Box(-1.0, 1.0, (3,)), gym.spaces.MultiDiscrete([3, 4])):
        assert deserialize_space(json.dumps(space_to_json(space))) == space


def test_other_spaces_are_refused():
    with pytest.raises(ConfigError, match="Text"):
        space_to_json(gym.spaces.Text(3))
    with pytest.raises(ConfigError, match="'Graph' is no known space"):
        space_from_json({"type": "Graph"})
    with pytest.raises(ConfigError, match="lacks 'n'"):
        space_from_json({"type": "Discrete"})
