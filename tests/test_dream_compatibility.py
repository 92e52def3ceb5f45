"""Programs written for ordinary environments run in dreams unchanged."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from drifting import make_world
from gymnasium.vector import AutoresetMode

from dreamenv.dream import DreamEnv

ID = "dreamenv:dreamenv/Dream-v0"


@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize("observation", ["frame", "latent"])
def test_stable_baselines3s_checker_finds_nothing_to_warn_of(observation, chunk):
    from stable_baselines3.common.env_checker import check_env

    check_env(DreamEnv(make_world(size=64, chunk=chunk), observation=observation, render_mode="rgb_array"))


@pytest.mark.parametrize(("observation", "policy"), [("frame", "CnnPolicy"), ("latent", "MlpPolicy")])
def test_stable_baselines3_trains_ppo_in_a_dream(observation, policy):
    from stable_baselines3 import PPO

    env = gym.make(ID, world=make_world(size=64), observation=observation, horizon=6)
    agent = PPO(policy, env, n_steps=16, batch_size=16, n_epochs=1, seed=0, device="cpu")
    agent.learn(32)
    assert agent.num_timesteps == 32


def test_an_algorithm_in_the_style_of_cleanrl_learns_to_choose_the_best_action():
    """PPO's policy gradient in its plainest form, as in cleanrl/ppo.py: vector environment, tensors, a buffer."""
    envs = gym.make_vec(ID, num_envs=8, world=make_world(), observation="latent", horizon=20)
    envs = gym.wrappers.vector.RecordEpisodeStatistics(envs)
    assert isinstance(envs.single_action_space, gym.spaces.Discrete)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    torch.manual_seed(0)
    policy = torch.nn.Linear(int(np.prod(envs.single_observation_space.shape)), int(envs.single_action_space.n))
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.1)
    seen, _ = envs.reset(seed=0)
    seen, ended = torch.Tensor(seen), torch.zeros(8)
    episodes = []
    for _ in range(25):
        losses = []
        for _ in range(10):
            chosen = torch.distributions.Categorical(logits=policy(seen * torch.tensor([1.0, 0.0])))
            action = chosen.sample()
            following, reward, terminations, truncations, infos = envs.step(action.cpu().numpy())
            advantage = torch.tensor(reward).view(-1) - 1.0
            losses.append(-(chosen.log_prob(action) * advantage * (1 - ended)).mean())
            seen, ended = torch.Tensor(following), torch.Tensor(np.logical_or(terminations, truncations))
            if "episode" in infos:
                episodes += infos["episode"]["r"][infos["_episode"]].tolist()
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        optimizer.step()
    assert np.mean(episodes[:8]) < 28
    assert np.mean(episodes[-8:]) > 36  # of 40
    envs.close()


def test_gymnasiums_own_vector_environments_hold_dreams():
    envs = gym.make_vec(ID, num_envs=2, vectorization_mode="sync", world=make_world(), horizon=3)
    envs.reset(seed=0)
    for _ in range(5):
        envs.step(envs.action_space.sample())
    envs.close()


@pytest.mark.parametrize("observation", ["frame", "latent"])
def test_torchrl_rolls_out_a_dream(observation):
    pytest.importorskip("torchrl", reason="torchrl is not installed")
    from torchrl.envs import GymEnv

    env = GymEnv(ID, world=make_world(), observation=observation, horizon=6)
    env.set_seed(0)
    rollout = env.rollout(20, break_when_any_done=False)
    assert rollout.batch_size == (20,)
    assert rollout["next", "truncated"].sum() == 3
    assert rollout["next", "reward"].shape == (20, 1)
    env.close()


def test_torchrls_checker_passes():
    pytest.importorskip("torchrl", reason="torchrl is not installed")
    from torchrl.envs import GymEnv
    from torchrl.envs.utils import check_env_specs

    check_env_specs(GymEnv(ID, world=make_world(), horizon=6))


def test_gymnasiums_wrappers_apply():
    env = gym.make(ID, world=make_world(), horizon=10)
    env = gym.wrappers.FrameStackObservation(gym.wrappers.GrayscaleObservation(env), 4)
    env = gym.wrappers.RecordEpisodeStatistics(gym.wrappers.TimeLimit(env, 4))
    observation, _ = env.reset(seed=0)
    assert observation.shape == (4, 16, 16)
    for _ in range(4):
        *_, truncated, info = env.step(1)
    assert truncated
    assert info["episode"]["l"] == 4
