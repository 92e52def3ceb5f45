"""What a dream refuses it refuses with an error of its own, and stays as it was."""

from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from drifting import make_world
from tensordict import TensorDict

from dreamenv import World
from dreamenv.agents import AgentConfig, DreamVecEnv, ObservationConfig, PPOConfig, RandomActor, evaluate
from dreamenv.agents.real import RealVecEnv
from dreamenv.backbones.rssm.presets import tiny
from dreamenv.dream import DreamConfig, DreamEnv, DreamVectorEnv
from dreamenv.dream.actions import ActionReader
from dreamenv.errors import ActionError, ClosedError, ConfigError, DreamenvError, InputError, SeedError, StateError
from dreamenv.testing import SPEC

ROWS = 3
NOTHING = float("nan")


@pytest.fixture(params=["drifting", "drifting in chunks", "rssm"])
def env(request) -> DreamVectorEnv:
    world = make_world(chunk=3 if "chunks" in request.param else 1)
    if request.param == "rssm":
        torch.manual_seed(0)
        world = World(tiny().build(SPEC).eval(), tiny(), world.starts)
    env = DreamVectorEnv(world, ROWS)
    env.reset(seed=0)
    env.step([0, 1, 2])
    return env


# States


def paths(state: TensorDict) -> list[tuple[str, ...]]:
    return [name if isinstance(name, tuple) else (name,) for name in state.keys(include_nested=True, leaves_only=True)]


def test_every_state_that_cannot_be_is_refused_and_changes_nothing(env):
    before, refused = env.get_state(), 0
    env.set_state(before)
    for path in paths(before):
        value = before[path]
        changes = [value[..., None], value.to(torch.int16), value.to(torch.complex64)]
        if value.ndim > 1:
            changes.append(value[:, :1].expand(ROWS, value.shape[1] + 1, *value.shape[2:]))
        if value.is_floating_point():
            changes += [torch.full_like(value, bad) for bad in (NOTHING, torch.inf, -torch.inf)]
        elif path[-1] in ("dreams", "entry", "steps", "rng_counter", "stoch", "played", "action"):
            changes += [torch.full_like(value, bad) for bad in (-1, 2**62 + 1)]
        for change in changes:
            altered = before.clone()
            altered[path] = change
            with pytest.raises(StateError):
                env.set_state(altered)
            refused += 1
        altered = before.clone()
        del altered[path]
        if len(path) > 1:
            with pytest.raises(StateError, match=path[-1]):
                env.set_state(altered)
    for other in (None, 5, {}, dict(before), before[:2], TensorDict({}, [ROWS]), TensorDict({}, [])):
        with pytest.raises(StateError):
            env.set_state(other)
    assert refused > 30
    assert (env.get_state() == before).all()
    env.step([0, 1, 2])


def test_an_entry_out_of_its_bounds_is_named_with_its_row():
    torch.manual_seed(0)
    env = DreamVectorEnv(World(tiny().build(SPEC).eval(), tiny(), make_world().starts), ROWS)
    env.reset(seed=0)
    state = env.get_state()
    state["dream", "stoch"][1, 0] = 999
    with pytest.raises(StateError, match=r"dream/stoch of row 1 holds 999"):
        env.set_state(state)
    state["dream", "stoch"][1, 0] = 0
    state["dream", "temperature"][2] = -1
    with pytest.raises(StateError, match=r"dream/temperature of row 2 holds -1.0"):
        env.set_state(state)


# Actions


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int8])
@pytest.mark.parametrize("gradient", [False, True])
def test_actions_straight_out_of_a_torch_policy_are_taken(dtype, gradient):
    read = ActionReader(gym.spaces.Box(-1, 1, (2,)), ROWS, torch.device("cpu"))
    actions = torch.ones(ROWS, 2, dtype=dtype)
    actions.requires_grad_(gradient and dtype.is_floating_point)
    for taken in (read(actions), read._read_tensor(actions.detach())):  # as on a processor, as on another device
        assert taken.dtype == torch.float32
        assert not taken.requires_grad
        assert (taken == 1).all()


def test_entries_of_a_dictionary_may_have_a_gradient():
    space = gym.spaces.Dict({"jump": gym.spaces.Discrete(2), "look": gym.spaces.Box(-1, 1, (1,))})
    read = ActionReader(space, ROWS, torch.device("cpu"))
    look = torch.zeros(ROWS, 1, requires_grad=True, dtype=torch.bfloat16)
    assert read({"jump": torch.ones(ROWS, dtype=torch.int64), "look": look}).shape == (ROWS, 1, 2)


@pytest.mark.parametrize(
    "action",
    [[[0], [1, 2], 0], [object()] * ROWS, {1: 2}, [10**30] * ROWS, [1j] * ROWS, torch.zeros(ROWS) + 0.5, "abc"],
)
def test_what_is_no_action_is_refused(env, action):
    with pytest.raises(ActionError):
        env.step(action)


def test_a_policys_fractions_are_no_choices():
    env = DreamVecEnv(make_world(), ROWS)
    env.reset()
    for actions in (np.full(ROWS, 1.7), np.full(ROWS, NOTHING), np.array(["left"] * ROWS)):
        with pytest.raises(ActionError):
            env.step(actions)
    env.step(torch.ones(ROWS, requires_grad=True))


# A reward function


def test_a_reward_function_that_fails_leaves_the_dream_as_it_was():
    failing, world = [], make_world(termination=0.2)

    def reward(frames, actions):
        if failing:
            raise ZeroDivisionError
        return frames.mean((1, 2, 3))

    env, twin = (DreamVectorEnv(world, ROWS, reward_fn=reward, horizon=5) for _ in range(2))
    env.reset(seed=0)
    twin.reset(seed=0)
    for step in range(20):
        if step % 3 == 1:
            failing.append(True)
            with pytest.raises(ZeroDivisionError):
                env.step([2, 2, 2])
            failing.clear()
        assert (env.get_state() == twin.get_state()).all()
        for left, right in zip(env.step([0, 1, 2])[:4], twin.step([0, 1, 2])[:4], strict=True):
            np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("wrong", [None, "much", [1, [2], 3], NOTHING, np.ones((ROWS, 1)), np.array([1j] * ROWS)])
def test_rewards_that_are_none_are_refused_and_change_nothing(wrong):
    env = DreamVectorEnv(make_world(), ROWS, reward_fn=lambda frames, actions: wrong)
    env.reset(seed=0)
    before = env.get_state()
    with pytest.raises(ConfigError, match="reward_fn"):
        env.step([0] * ROWS)
    assert (env.get_state() == before).all()


def test_a_reward_function_sees_the_same_actions_whatever_form_they_come_in():
    space, seen = gym.spaces.Dict({"a": gym.spaces.Discrete(2), "b": gym.spaces.Discrete(3)}), []
    env = DreamVectorEnv(make_world(space=space), 2, reward_fn=lambda _, actions: seen.append(actions) or [0.0, 0.0])
    env.reset(seed=0)
    env.step({"a": [0, 1], "b": [2, 0]})
    env.step([[0, 2], [1, 0]])
    env.step(torch.tensor([[0, 2], [1, 0]]))
    for actions in seen:
        assert isinstance(actions, np.ndarray)
        assert actions.tolist() == [[0, 2], [1, 0]]


# Numbers


def test_numpys_numbers_are_numbers_everywhere():
    world = make_world()
    env = DreamVectorEnv(world, np.int64(3), horizon=np.int32(4), temperature=np.float32(0.5), render_scale=np.int8(2))
    env.reset(seed=np.int64(3), options={"start": np.int16(2)})
    env.reset(seed=np.array([1, 2, 3]), options={"start": [np.int64(1), "episode", None]})
    assert env.branch(np.int64(0), np.int32(2), seed=np.int64(1)).batch_size == (2,)
    one = DreamEnv(world)
    one.reset(seed=np.int64(3))
    one.step(np.array(1))
    again = DreamEnv(world)
    again.reset(seed=3)
    assert (one.get_state()["row_key"] == again.get_state()["row_key"]).all()
    config = DreamConfig(horizon=np.int64(8), temperature=(np.float32(0.5), np.float64(1)), compile=np.False_)
    assert DreamConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    agent = AgentConfig(num_envs=np.int64(8), ppo=PPOConfig(n_steps=np.int64(64), gamma=np.float32(0.5)), dream=config)
    assert AgentConfig.from_json(json.loads(json.dumps(agent.to_json()))) == agent
    assert json.loads(json.dumps(agent.to_json()))["dream"]["precision"] == "float32"
    assert ObservationConfig(stack=np.int64(2)).stack == 2
    actor = RandomActor(world.spec.action_space)
    assert evaluate(actor, world, episodes=np.int64(2), num_envs=np.int64(1), horizon=3).lengths == [3, 3]


WRONG = [2.5, float("inf"), NOTHING, "three", -1, True, None, [3], 10**30, 1j]


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
@pytest.mark.parametrize("name", ["num_envs", "horizon", "render_scale", "temperature", "uncertainty_penalty"])
def test_wrong_numbers_are_refused_when_a_dream_is_made(name, wrong):
    fits = {"temperature": (2.5,), "uncertainty_penalty": (2.5,), "horizon": (None,), "render_scale": (None,)}
    if any(wrong is value or wrong == value for value in fits.get(name, ())):
        return
    if name in ("temperature", "uncertainty_penalty") and wrong == 10**30:
        return
    with pytest.raises(ConfigError, match=name):
        DreamVectorEnv(make_world(), **{name: wrong})


@pytest.mark.parametrize(
    "settings",
    [
        {"reward_fn": 3}, {"starts": [1, 2]}, {"world": 7}, {"observation": np.zeros(2)}, {"autoreset_mode": []},
        {"compile": "yes"}, {"episode_starts_only": 1}, {"render_start": "left"}, {"render_mode": 5}, {"output": None},
    ],
)  # fmt: skip
def test_settings_of_another_kind_are_refused(settings):
    with pytest.raises(ConfigError):
        DreamVectorEnv(**{"world": make_world(), **settings})


@pytest.mark.parametrize("wrong", [2.5, "three", NOTHING, -1, True, 10**30], ids=repr)
def test_wrong_numbers_are_refused_in_agents_and_evaluation(wrong):
    for make in (
        lambda: PPOConfig(n_steps=wrong),
        lambda: PPOConfig(learning_rate=-1.0 if isinstance(wrong, float | int) else wrong),
        lambda: AgentConfig(num_envs=wrong),
        lambda: ObservationConfig(stack=wrong),
        lambda: DreamVecEnv(make_world(), wrong),
        lambda: RealVecEnv("take_cover", wrong),
        lambda: evaluate(RandomActor(gym.spaces.Discrete(3)), make_world(), episodes=wrong),
        lambda: evaluate(RandomActor(gym.spaces.Discrete(3)), make_world(), num_envs=wrong),
    ):
        with pytest.raises(ConfigError):
            make()
    for call in (
        lambda: evaluate(RandomActor(gym.spaces.Discrete(3)), make_world(), seed=wrong),
        lambda: DreamVecEnv(make_world(), 2).seed(wrong),
        lambda: DreamEnv(make_world()).reset(seed=wrong),
    ):
        with pytest.raises(SeedError):
            call()


def test_a_world_that_estimates_no_uncertainty_refuses_settings_of_it(monkeypatch):
    world = make_world()
    world.model.estimates_uncertainty = False
    for settings in ({"uncertainty_penalty": 1.0}, {"max_uncertainty": 1.0}):
        with pytest.raises(ConfigError, match="estimates no uncertainty"):
            DreamVectorEnv(world, 1, **settings)


# Resets and ends


@pytest.mark.parametrize("options", [5, "start", {"start": [[1], [2, 3]]}, {"start": {}}, {"reset_mask": [[True], 1]}])
def test_options_that_are_none_change_nothing(env, options):
    before = env.get_state()
    with pytest.raises(InputError):
        env.reset(seed=9, options=options)
    assert (env.get_state() == before).all()


def test_a_refused_reset_seeds_nothing():
    env, twin = DreamEnv(make_world()), DreamEnv(make_world())
    with pytest.raises(DreamenvError):
        env.reset(seed=3, options={"start": 10**6})
    env.reset(seed=1)
    twin.reset(seed=1)
    assert (env.get_state() == twin.get_state()).all()


def test_a_closed_environment_says_so():
    world = make_world()
    many, one, rows = DreamVectorEnv(world, ROWS), DreamEnv(world), DreamVecEnv(world, ROWS)
    real = RealVecEnv(lambda: DreamEnv(world), 2, observation=ObservationConfig(kind="frame"))
    for env in (many, one, rows, real):
        env.reset()
        env.close()
        env.close()
    state = DreamVectorEnv(world, ROWS)
    state.reset(seed=0)
    for call in (
        many.reset, lambda: many.step([0] * ROWS), lambda: many.set_state(state.get_state()), many.render,
        one.reset, lambda: one.step(0),
        rows.reset, lambda: rows.step(np.zeros(ROWS, int)), real.reset, lambda: real.step(np.zeros(2, int)),
    ):  # fmt: skip
        with pytest.raises(ClosedError):
            call()
