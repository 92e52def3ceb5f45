"""Promises of the scripted explorer."""

from __future__ import annotations

import numpy as np
import pytest
from navigation import here, make

from dreamenv.cli import main
from dreamenv.data import EpisodeDataset, EpsilonPolicy, ExplorerPolicy, StickyRandomPolicy
from dreamenv.data.explorer import ExplorerConfig
from dreamenv.errors import ConfigError

WALK = ("noop", "turn_left", "turn_right", "forward")
STRAIGHT = ExplorerConfig(turn_probability=0.0)


def picture(value):
    """A grey picture; those of neighbouring values differ by more than creatures that move."""
    return np.full((4, 4, 3), 2 * value, np.uint8)


def acts(policy, values):
    """The names of what a policy does after frames of these grey values."""
    return [WALK[policy.act(picture(value))] for value in values]


def test_it_walks_on_while_the_picture_changes():
    policy = ExplorerPolicy(WALK, STRAIGHT)
    assert acts(policy, range(50)) == ["forward"] * 50


def test_it_turns_one_way_for_a_while_when_it_gets_nowhere_then_walks_on():
    for seed in range(10):
        policy = ExplorerPolicy(WALK, STRAIGHT)
        policy.reset(seed)
        done = acts(policy, [7, 7, *range(20, 40)])
        turns = done[1 : done.index("forward", 1)]
        assert 1 <= len(turns) <= STRAIGHT.max_turn_steps
        assert set(turns) in ({"turn_left"}, {"turn_right"})
        assert set(done[1 + len(turns) :]) == {"forward"}


def test_it_turns_the_same_way_until_it_gets_out_of_a_corner():
    for seed in range(10):
        policy = ExplorerPolicy(WALK, STRAIGHT)
        policy.reset(seed)
        corner = set(acts(policy, [7] * 60)) - {"forward"}
        assert corner in ({"turn_left"}, {"turn_right"})


def test_it_may_turn_the_other_way_at_the_next_corner():
    turned = set()
    for seed in range(10):
        policy = ExplorerPolicy(WALK, STRAIGHT)
        policy.reset(seed)
        turned |= {tuple(sorted(set(acts(policy, [7] * 20 + list(range(20, 50)) + [50] * 20)) - {"forward"}))}
    assert ("turn_left", "turn_right") in turned


def test_a_picture_that_stays_while_it_turns_is_no_wall():
    policy = ExplorerPolicy(WALK, STRAIGHT)
    policy.act(picture(7))
    while WALK[policy.act(picture(7))] != "forward":
        pass
    assert acts(policy, [8, 9]) == ["forward", "forward"]


def test_it_wanders_at_random_too():
    done = acts(ExplorerPolicy(WALK, ExplorerConfig(turn_probability=0.2)), np.arange(200) % 100)
    assert {"forward", "turn_left", "turn_right"} == set(done)
    assert done.count("forward") > 40


def test_the_explorer_uses_its_hands_on_obstacles_and_then_walks():
    names = (*WALK, "toggle")
    policy = ExplorerPolicy(names, ExplorerConfig(turn_probability=0.0, interact_probability=1.0))
    assert [names[policy.act(picture(7))] for _ in range(5)] == ["forward", "toggle", "forward", "toggle", "forward"]


def test_where_there_are_directions_it_keeps_one_until_it_is_stopped():
    names = ("noop", "move_left", "move_right", "move_up", "move_down")
    policy = ExplorerPolicy(names, STRAIGHT)
    first, second = (names[policy.act(picture(value))] for value in (1, 2))
    third = names[policy.act(picture(2))]
    assert first == second != third
    assert third.startswith("move_")


def test_another_action_in_place_of_its_own_is_no_wall():
    policy = ExplorerPolicy(WALK, STRAIGHT)
    policy.act(picture(7))
    policy.set_last_action(0)
    assert acts(policy, [7]) == ["forward"]


def test_the_same_seed_explores_the_same_walk_action():
    values = np.random.default_rng(0).integers(4, size=200)
    policy = ExplorerPolicy(WALK)
    runs = []
    for seed in (3, 4, 3):
        policy.reset(seed)
        runs.append(acts(policy, values))
    assert runs[0] == runs[2] != runs[1]


@pytest.mark.parametrize("names", [(), ("noop", "left", "right"), ("noop", "forward")])
def test_a_world_without_ways_to_walk_is_refused(names):
    with pytest.raises(ConfigError, match="explorer needs"):
        ExplorerPolicy(names)


@pytest.mark.parametrize(
    "settings",
    [{"turn_probability": 1.5}, {"interact_probability": -0.1}, {"max_turn_steps": 0}, {"stuck_threshold": 300.0}],
)
def test_settings_that_cannot_work_are_named(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        ExplorerConfig(**settings)


def places(env, policy, seed, cell):
    """How many places a policy visits in 100 steps."""
    policy.reset(seed)
    frame, info = env.reset(seed=seed)
    seen = set()
    for _ in range(100):
        frame, _, terminated, truncated, info = env.step(policy.act(frame))
        seen.add(tuple(np.floor(np.array(info["position"]) / cell)))
        if terminated or truncated:
            break
    return len(seen)


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        pytest.param(*parameter.values, cell, marks=parameter.marks)
        for name, cell in (("miniworld_four_rooms", 0.5), ("minigrid_four_rooms", 1.0))
        for parameter in here(name)
    ],
)
def test_it_covers_more_ground_than_sticky_random_does(name, cell):
    env = make(name)
    explorer = ExplorerPolicy(env.get_wrapper_attr("provenance").action_names)
    sticky = StickyRandomPolicy(env.action_space)
    explored, drifted = (sum(places(env, who, seed, cell) for seed in range(4)) for who in (explorer, sticky))
    assert explored > 1.3 * drifted
    env.close()


@pytest.mark.parametrize("name", here("minigrid_four_rooms"))
def test_a_recording_says_which_episodes_it_explored(name, tmp_path, capsys):
    out = tmp_path / "data"
    assert main(["collect", name, "--out", str(out), "--episodes", "6", "--workers", "0", "--size", "16",
                 "--policy", "explorer=0.5,sticky=0.5"]) == 0  # fmt: skip
    dataset = EpisodeDataset.open(out)
    assert {dataset[index].policy for index in range(len(dataset))} == {"explorer", "sticky"}
    assert main(["collect", "take_cover", "--out", str(tmp_path / "no"), "--steps", "5", "--policy", "explorer"]) == 2
    assert "explorer needs actions named forward" in capsys.readouterr().err


def test_epsilon_mixtures_name_it():
    import gymnasium as gym

    policy = EpsilonPolicy(ExplorerPolicy(WALK), 0.25, gym.spaces.Discrete(4))
    policy.reset(0)
    assert policy.name == "explorer, epsilon 0.25"
    assert len({policy.act(picture(value)) for value in range(100)}) == 4
