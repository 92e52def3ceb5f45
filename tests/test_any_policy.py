"""Any policy is evaluated: models of stable-baselines3 and sb3-contrib, functions, and anything with their predict."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from drifting import make_world
from sb3_contrib import QRDQN, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize
from test_agents_environments import Brightness

from dreamenv.agents import DreamVecEnv, ObservationConfig, evaluate
from dreamenv.agents.views import find_view
from dreamenv.backbones.persistence import PersistenceConfig
from dreamenv.cli import main
from dreamenv.dream import DreamConfig, DreamEnv
from dreamenv.errors import ActionError, ConfigError, PolicyError, UnknownKeywordError, UnknownNameError
from dreamenv.world import World

BOX = gym.spaces.Box(-1, 1, (2,), np.float32)
SMALL = {"n_steps": 8, "seed": 0, "device": "cpu"}
REPLAY = {"buffer_size": 100, "learning_starts": 8, "seed": 0, "device": "cpu"}


def constant(action):
    """A policy of one action, and what it saw."""
    seen = []

    def act(observations):
        seen.append(observations)
        return np.full(len(observations), action)

    return act, seen


class Steady:
    """A predictor that counts each episode's steps in its state, and acts by the count."""

    def __init__(self, **spaces):
        vars(self).update(spaces)

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        count = np.where(episode_start, 0, 0 if state is None else state)
        return count % 3, count + 1


@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [(PPO, {**SMALL, "batch_size": 8, "n_epochs": 1}), (A2C, SMALL), (DQN, REPLAY), (QRDQN, REPLAY)],
)
@pytest.mark.parametrize("observation", ["latent", "frame"])
def test_models_of_stable_baselines3_play_in_the_dream_and_in_the_real_environment(algorithm, settings, observation):
    world = make_world()
    model = algorithm("MlpPolicy", DreamVecEnv(world, 2, observation=observation, horizon=8), **settings)
    model.learn(16)
    dream = evaluate(model, world, episodes=3, horizon=4)
    real = evaluate(model, Brightness, episodes=3, world=world)
    assert dream.lengths == [4, 4, 4]
    assert real.scores == [5.0, 5.0, 5.0]
    assert evaluate(model.policy, world, episodes=2, horizon=4).episodes == 2


def test_a_convolutional_policy_sees_its_channels_first():
    """stable-baselines3 turns the frames (h, w, c) that it trains on into (c, h, w)."""
    world = make_world(size=48)
    model = PPO("CnnPolicy", DreamVecEnv(world, 2, horizon=8), **SMALL, batch_size=8)
    assert model.observation_space.shape == (3, 48, 48)
    assert evaluate(model, world, episodes=2, horizon=3).lengths == [3, 3]


@pytest.mark.parametrize(
    "observation",
    [ObservationConfig(kind="frame", stack=4), ObservationConfig(kind="frame", stack=2, grey=False, size=8)],
)
def test_stacks_grey_and_small_frames_are_found_from_the_space(observation):
    world = make_world()
    model = A2C("MlpPolicy", DreamVecEnv(world, 2, observation=observation), **SMALL)
    assert evaluate(model, world, episodes=2, horizon=3).lengths == [3, 3]
    assert evaluate(model, Brightness, episodes=2).lengths == [5, 5]


def test_frames_that_stable_baselines3_stacked_are_stacked_as_there():
    """Its stack lies along the last axis, the oldest first."""
    world, seen = make_world(noise=0.0), []

    class Looks(Steady):
        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            seen.append(observation)
            return super().predict(observation, state, episode_start)

    theirs = VecFrameStack(DreamVecEnv(world, 1, horizon=4), 3)
    evaluate(Looks(observation_space=theirs.observation_space), world, episodes=1, horizon=4)
    assert seen[0].shape == (1, 16, 16, 9)
    levels = [one[0, 0, 0, ::3].astype(int).tolist() for one in seen]
    assert levels[1][:2] == [levels[0][2]] * 2
    assert levels[2][1:] == [levels[1][2], levels[2][2]]
    assert levels[2][1] != levels[2][2]


def test_soft_actor_critic_plays_with_quantities():
    world = make_world(space=BOX)
    model = SAC("MlpPolicy", DreamVecEnv(world, 1, observation="latent", horizon=8), **REPLAY)
    model.learn(10)
    result = evaluate(model, world, episodes=3, horizon=4)
    assert result.lengths == [4, 4, 4]
    assert all(-8 <= total <= 8 for total in result.returns)


def test_a_recurrent_policy_keeps_its_memory_through_an_episode_and_not_beyond():
    world = make_world()
    model = RecurrentPPO("MlpLstmPolicy", DreamVecEnv(world, 2, observation="latent"), **SMALL, batch_size=8)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.mul_(8)
    rows = [evaluate(model, world, episodes=5, horizon=7, num_envs=n, deterministic=True).returns for n in (1, 2, 5)]
    assert rows[0] == rows[1] == rows[2]


def test_every_episode_starts_with_a_fresh_state_of_the_predictor():
    """0, 1, 2, 0, 1 are its actions in every episode of five steps, and the rewards."""
    assert evaluate(Steady(), Brightness, episodes=5, num_envs=2).returns == [4.0] * 5


def test_a_function_sees_frames_as_the_environment_shows_them_and_takes_its_actions():
    world = make_world()
    act, seen = constant(2)
    assert evaluate(act, world, episodes=3, horizon=4).returns == [8.0] * 3
    assert (seen[0].shape, seen[0].dtype) == ((3, 16, 16, 3), np.uint8)
    act, seen = constant(1)
    assert evaluate(act, Brightness, episodes=2, world=world, observation="latent").returns == [5.0] * 2
    assert seen[0].shape == (2, 2)
    act, seen = constant(1)
    evaluate(act, world, episodes=2, horizon=2, observation=ObservationConfig(kind="frame", stack=4))
    assert seen[0].shape == (2, 4, 16, 16)


def test_a_function_acts_in_the_environments_own_space():
    space = gym.spaces.Dict({"turn": gym.spaces.Discrete(3, start=-1), "push": BOX})
    world = make_world(space=space)

    def act(observations):
        rows = len(observations)
        return {"turn": np.full(rows, -1), "push": np.full((rows, 2), 0.25, np.float32)}

    assert evaluate(act, world, episodes=2, horizon=3).returns == pytest.approx([-1.5, -1.5])


def test_actions_that_a_function_must_not_return_are_named():
    world = make_world()
    for answer, named in ((7, "action 7"), (0.5, "float64"), (-1, "action -1")):
        with pytest.raises(ActionError, match=named):
            evaluate(constant(answer)[0], world, episodes=2, horizon=3)
    with pytest.raises(ActionError, match="1 actions for 2 observations"):
        evaluate(lambda observations: np.zeros(1, int), world, episodes=2, horizon=3)


@pytest.mark.parametrize("algorithm", [PPO, DQN])
def test_sampled_actions_repeat_and_leave_the_processs_generators_alone(algorithm):
    world = make_world()
    settings = {**SMALL, "batch_size": 8} if algorithm is PPO else {**REPLAY, "exploration_initial_eps": 0.5}
    model = algorithm("MlpPolicy", DreamVecEnv(world, 2, observation="latent"), **settings)
    if algorithm is DQN:
        model.exploration_rate = 0.5

    def draws():
        return float(torch.rand(1)), np.random.rand(), model.action_space.sample()

    torch.manual_seed(1)
    np.random.seed(1)
    model.action_space.seed(1)
    expected = draws()
    torch.manual_seed(1)
    np.random.seed(1)
    model.action_space.seed(1)
    first = evaluate(model, world, episodes=6, horizon=8)
    assert draws() == expected
    assert evaluate(model, world, episodes=6, horizon=8).returns == first.returns
    assert evaluate(model, world, episodes=6, horizon=8, deterministic=True).returns != first.returns


def test_observations_are_normalized_as_in_training():
    world = make_world()
    env = VecNormalize(DreamVecEnv(world, 2, observation="latent"), norm_reward=False)
    model = PPO("MlpPolicy", env, **SMALL, batch_size=8)
    model.learn(64)
    seen, predict = [], model.predict

    def noting(observation, **given):
        seen.append(observation)
        return predict(observation, **given)

    model.predict = noting
    counted = env.obs_rms.count
    evaluate(model, world, episodes=2, horizon=3)
    act, plain = constant(0)
    evaluate(act, world, episodes=2, horizon=3, observation="latent")
    np.testing.assert_array_equal(seen[0], env.normalize_obs(plain[0]))
    assert (seen[0] != plain[0]).any()
    assert env.obs_rms.count == counted  # nothing is learned during evaluation


def test_a_model_that_was_trained_in_a_gymnasium_dream_is_evaluated_too():
    world = make_world(space=gym.spaces.MultiBinary(3))
    model = PPO("MlpPolicy", DummyVecEnv([lambda: DreamEnv(world, observation="latent")]), **SMALL, batch_size=8)
    assert evaluate(model, world, episodes=2, horizon=3).lengths == [3, 3]


# What cannot be evaluated


def test_an_unknown_observation_space_is_named_with_the_known_ones():
    world = make_world()
    other = gym.spaces.Box(-1, 1, (7,), np.float32)
    with pytest.raises(PolicyError, match=r"\(7,\).*\(16, 16, 3\).*\(2,\).*DreamVecEnv"):
        evaluate(Steady(observation_space=other), world, episodes=1)
    with pytest.raises(PolicyError, match=r"\(7,\).*\(16, 16, 3\).*World\.load"):
        evaluate(Steady(observation_space=other), Brightness, episodes=1)
    bounded = gym.spaces.Box(-1, 1, (2,), np.float32)  # of the latents' shape, but of something else
    with pytest.raises(PolicyError, match=r"Box\(-1\.0, 1\.0, \(2,\)"):
        evaluate(Steady(observation_space=bounded), world, episodes=1)
    frames = gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    with pytest.raises(PolicyError, match=r"\(64, 64, 3\).*\(16, 16, 3\)"):
        evaluate(Steady(observation_space=frames), world, episodes=1)
    frames = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)
    with pytest.raises(PolicyError, match=r"\(16, 16, 3\).*\(2,\)"):
        evaluate(Steady(observation_space=frames), world, episodes=1, observation="latent")


def test_a_policy_of_latents_meets_a_world_without():
    latents = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    plain = make_world()
    still = PersistenceConfig().build(plain.spec)
    with pytest.raises(PolicyError, match=r"\(2,\).*frames"):
        evaluate(Steady(observation_space=latents), World(still, PersistenceConfig(), plain.starts), episodes=1)
    assert evaluate(Steady(observation_space=latents), plain, episodes=1, horizon=3).lengths == [3]


def test_a_mismatched_action_space_is_named_with_the_environments():
    with pytest.raises(PolicyError, match=r"Discrete\(5\).*Discrete\(3\)"):
        evaluate(Steady(action_space=gym.spaces.Discrete(5)), make_world(), episodes=1)
    with pytest.raises(PolicyError, match=r"Discrete\(5\).*Discrete\(3\)"):
        evaluate(Steady(action_space=gym.spaces.Discrete(5)), Brightness, episodes=1)


def test_a_file_of_stable_baselines3_is_refused_with_the_way_to_load_it(tmp_path, capsys):
    world = make_world()
    model = A2C("MlpPolicy", DreamVecEnv(world, 1, observation="latent"), **SMALL)
    model.save(tmp_path / "model")
    for path in (tmp_path / "model.zip", str(tmp_path / "model"), tmp_path / "model"):
        with pytest.raises(PolicyError, match=r"model\.zip.*pickle.*PPO\.load\(path\)"):
            evaluate(path, world, episodes=1)
    world.save(tmp_path / "world")
    assert main(["evaluate", str(tmp_path / "model.zip"), "--on", str(tmp_path / "world")]) != 0
    assert "dreamenv.agents.evaluate(PPO.load(path)" in capsys.readouterr().err.replace("\n", " ")


def test_what_is_no_policy_is_named():
    with pytest.raises(PolicyError, match="5 is no policy"):
        evaluate(5, make_world(), episodes=1)

    class Half:
        def predict(self, observation, **_):
            return np.zeros(len(observation), int)

    with pytest.raises(PolicyError, match=r"\(actions, state\)"):
        evaluate(Half(), make_world(), episodes=1)
    with pytest.raises(ConfigError, match="'pixels'"):
        evaluate(Steady(), make_world(), episodes=1, observation="pixels")


def test_settings_of_dreams_have_no_place_in_a_real_environment():
    for given in ({"horizon": 5}, {"config": DreamConfig()}, {"reward_fn": lambda frames, actions: frames}):
        with pytest.raises(ConfigError, match=f"{next(iter(given))} is a setting of dreams"):
            evaluate(Steady(), Brightness, episodes=1, **given)
    with pytest.raises(UnknownKeywordError, match=r"'horizont'.*'horizon'"):
        evaluate(Steady(), make_world(), episodes=1, horizont=5)
    with pytest.raises(UnknownKeywordError, match=r"'episode'.*'episodes'"):
        evaluate(Steady(), make_world(), episode=1)


def test_a_saved_policy_is_evaluated_by_its_folder(tmp_path):
    from test_evaluation import make_policy

    world = make_world()
    policy = make_policy(world=world)
    folder = policy.save(tmp_path / "policy")
    results = [evaluate(one, world, episodes=3, horizon=5).returns for one in (folder, str(folder), policy)]
    assert results[0] == results[1] == results[2]
    with pytest.raises(ConfigError, match="leave observation out"):
        evaluate(policy, world, episodes=1, observation="frame")


def test_views_of_wide_frames_keep_their_form():
    space = gym.spaces.Box(0, 255, (4, 8, 16), np.uint8)
    view = find_view(space, (16, 32, 3), None)
    assert view.config == ObservationConfig(kind="frame", stack=4, grey=True, size=8)
    assert not view.channels_last


def test_a_class_in_place_of_a_model_is_refused():
    with pytest.raises(PolicyError, match=r"PPO is a class; pass a model made with it, such as PPO.load\(path\)"):
        evaluate(PPO, make_world(), episodes=1)


@pytest.mark.parametrize("target", [None, Brightness(), 3])
def test_a_target_that_is_neither_a_world_nor_makes_an_environment_is_refused(target):
    with pytest.raises(ConfigError, match="a real environment must be given as a name, or a class or function"):
        evaluate(constant(0)[0], target, episodes=1)


@pytest.mark.parametrize("settings", [{"num_envs": 0}, {"episodes": 2.5}, {"episodes": "2"}])
def test_numbers_that_cannot_be_are_refused(settings):
    with pytest.raises(ConfigError, match="must be"):
        evaluate(constant(0)[0], make_world(), **{"episodes": 2, **settings})


def test_a_policy_that_cannot_be_called_as_policies_are_is_refused_before_it_plays():
    world = make_world()
    with pytest.raises(PolicyError, match=r"called with \(observations\).*missing a required argument: 'x'"):
        evaluate(lambda o, x: o, world, episodes=1, horizon=2)

    class Odd:
        def predict(self, observation):
            return np.zeros(len(observation), np.int64), None

    with pytest.raises(PolicyError, match=r"called with \(observations, state, episode_start, deterministic\)"):
        evaluate(Odd(), world, episodes=1, horizon=2)


@pytest.mark.parametrize("settings", [{}, {"horizon": 6}])
def test_an_unknown_target_is_named_as_such_with_near_names(settings):
    with pytest.raises(UnknownNameError, match=r"No folder of a world, nor real environment, named 'missing/world'"):
        evaluate("random", "missing/world", **settings)
    with pytest.raises(UnknownNameError, match=r"Did you mean 'take_cover'\?"):
        evaluate("random", "take_covr", **settings)


def test_latents_without_bounds_are_shown_as_such_and_not_stacked():
    stacked = VecFrameStack(DreamVecEnv(make_world(), 1, observation="latent"), 3)
    with pytest.raises(PolicyError, match=r"space is Box\(-inf, inf, \(6,\), float32\), and here it "):
        evaluate(Steady(observation_space=stacked.observation_space), make_world(), episodes=1, horizon=2)
