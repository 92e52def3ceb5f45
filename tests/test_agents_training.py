"""Promises of training agents, and of what is saved of them."""

from __future__ import annotations

import dataclasses
import errno
import functools
import json
import shutil

import gymnasium as gym
import numpy as np
import pytest
import torch
from drifting import make_provenance, make_world
from test_agents_environments import FRAMES, LATENTS, Brightness
from test_evaluation import make_policy

from dreamenv.agents import (
    AgentConfig,
    CollectionPolicy,
    NetworkConfig,
    PPOConfig,
    SavedPolicy,
    evaluate,
    make_training_env,
    train_agent,
)
from dreamenv.agents.checkpoints import latest_checkpoint
from dreamenv.agents.saved_policy import SavedPolicy as Policy
from dreamenv.dream import DreamConfig
from dreamenv.errors import (
    CheckpointDamagedError,
    CheckpointError,
    ConfigError,
    DeviceError,
    StorageError,
    UnknownNameError,
)
from dreamenv.storage import seal, write_json

SMALL = AgentConfig(
    total_steps=512,
    num_envs=8,
    real_envs=2,
    ppo=PPOConfig(n_steps=16, batch_size=64, n_epochs=2),
    network=NetworkConfig(net_arch=(16,), channels=(4, 4, 4), features_dim=16, lstm_hidden_size=8),
    dream=DreamConfig(horizon=8),
    checkpoint_every=256,
    num_threads=1,
)


def tensors(policy):
    return {name: value.clone() for name, value in policy.network.state_dict().items()}


@pytest.mark.parametrize("algorithm", ["ppo", "recurrent_ppo"])
@pytest.mark.parametrize("observation", [LATENTS, FRAMES])
def test_training_in_a_dream_leaves_a_policy_that_loads_and_acts_alike(tmp_path, algorithm, observation):
    world = make_world()
    config = dataclasses.replace(SMALL, algorithm=algorithm, observation=observation, total_steps=256)
    policy = train_agent(config, out=tmp_path, world=world, progress=False)
    loaded = SavedPolicy.load(tmp_path / "policy")
    assert loaded.config == config
    assert loaded.record["steps"] == 256
    assert loaded.world_hash == f"{world.fingerprint:016x}"
    assert loaded.provenance == world.provenance
    observations = np.stack([policy.observation_space.sample() for _ in range(3)])
    if observation is LATENTS:
        observations = np.array([[0.1, 3], [0.5, 1], [0.9, 0]], np.float32)
    states = policy.start(np.arange(3)), loaded.start(np.arange(3))
    for _ in range(4):
        (one, first), (other, second) = policy.act(observations, states[0]), loaded.act(observations, states[1])
        np.testing.assert_array_equal(one, other)
        states = first, second
    assert list((tmp_path / "tensorboard").iterdir())


def test_ppo_learns_in_a_dream_and_the_policy_works_in_the_real_environment(tmp_path):
    """In the drifting world and in the real one alike the reward is the action, at most 2 a step."""
    world = make_world()
    ppo = dataclasses.replace(SMALL.ppo, learning_rate=0.01, ent_coef=0.0, n_epochs=4)
    config = dataclasses.replace(SMALL, total_steps=4096, ppo=ppo)
    policy = train_agent(config, out=tmp_path, world=world, progress=False)
    dream = evaluate(policy, world, episodes=8, horizon=5)
    real = evaluate(policy, Brightness, episodes=8, world=world)
    assert dream.return_summary().mean > 9
    assert real.return_summary().mean > 9


@pytest.mark.parametrize("where", ["real", "mixed"])
def test_ppo_runs_in_reality_and_in_both(tmp_path, where):
    config = dataclasses.replace(SMALL, where=where, total_steps=256)
    policy = train_agent(config, out=tmp_path, world=make_world(), real=Brightness, progress=False)
    assert policy.record["steps"] == 256


def test_reality_on_frames_needs_no_world(tmp_path):
    config = dataclasses.replace(SMALL, where="real", observation=FRAMES, total_steps=128)
    policy = train_agent(config, out=tmp_path, real=Brightness, progress=False)
    assert policy.world_hash == ""
    assert policy.provenance.frame_skip == 4
    assert evaluate(policy, Brightness, episodes=2).episodes == 2


def test_the_same_seed_trains_the_same_policy(tmp_path):
    world = make_world()
    one, same = (train_agent(SMALL, out=tmp_path / name, world=world, progress=False) for name in "ab")
    other = train_agent(dataclasses.replace(SMALL, seed=1), out=tmp_path / "c", world=world, progress=False)
    for name, value in tensors(one).items():
        assert torch.equal(value, tensors(same)[name]), name
    assert any(not torch.equal(value, tensors(other)[name]) for name, value in tensors(one).items())


def test_training_leaves_the_processs_random_generators_alone(tmp_path):
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(5)
    np.random.seed(5)
    train_agent(dataclasses.replace(SMALL, total_steps=128), out=tmp_path, world=make_world(), progress=False)
    assert (torch.rand(1), np.random.rand()) == expected


def test_training_resumes_from_its_newest_checkpoint(tmp_path):
    world = make_world()
    short = dataclasses.replace(SMALL, total_steps=256)
    train_agent(short, out=tmp_path, world=world, progress=False)
    assert latest_checkpoint(tmp_path / "checkpoints").name == "step-00000256"
    policy = train_agent(SMALL, out=tmp_path, world=world, progress=False)
    assert policy.record["steps"] == 512
    # Nothing is left to do: the policy comes back as it was.
    again = train_agent(SMALL, out=tmp_path, world=world, progress=False)
    for name, value in tensors(policy).items():
        assert torch.equal(value, tensors(again)[name])
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_a_resumed_run_restores_weights_optimiser_and_reward_scale(tmp_path, monkeypatch):
    from dreamenv.agents import ppo

    world, seen = make_world(), []
    train_agent(dataclasses.replace(SMALL, total_steps=256), out=tmp_path, world=world, progress=False)
    load = ppo.load_checkpoint

    def noting(path, algorithm, config, surroundings):
        seconds = load(path, algorithm, config, surroundings)
        state = algorithm.policy.optimizer.state_dict()["state"]
        seen.append(
            (algorithm.num_timesteps, float(state[0]["step"]), float(algorithm.get_vec_normalize_env().ret_rms.count))
        )
        return seconds

    monkeypatch.setattr(ppo, "load_checkpoint", noting)
    train_agent(SMALL, out=tmp_path, world=world, progress=False)
    assert seen[0][0] == 256
    assert seen[0][1] == 8  # 2 rollouts of 2 batches in 2 epochs
    assert seen[0][2] == pytest.approx(256, abs=1)


def test_other_settings_than_the_checkpoints_are_refused(tmp_path):
    world, other = make_world(), dataclasses.replace(SMALL.ppo, gamma=0.5)
    train_agent(dataclasses.replace(SMALL, total_steps=128), out=tmp_path, world=world, progress=False)
    with pytest.raises(CheckpointError, match=r"ppo\.gamma=0\.99, not 0\.5"):
        train_agent(dataclasses.replace(SMALL, ppo=other), out=tmp_path, world=world, progress=False)
    policy = train_agent(
        dataclasses.replace(SMALL, ppo=other, total_steps=128), out=tmp_path, world=world, progress=False, resume=False
    )
    assert policy.config.ppo.gamma == 0.5


def flipped(content, place):
    """The bytes with one bit of one byte turned round."""
    return content[:place] + bytes((content[place] ^ 1,)) + content[place + 1 :]


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_passed_over_for_the_whole_one_before(tmp_path, name):
    world, kept = make_world(), tmp_path / "checkpoints"
    short = dataclasses.replace(SMALL, total_steps=256, checkpoint_every=128)
    whole = train_agent(short, out=tmp_path, world=world, progress=False)
    first, newest = sorted(kept.iterdir())
    assert latest_checkpoint(kept) == newest
    file = newest / name
    content = file.read_bytes()
    for damaged in (content[:100], flipped(content, len(content) // 2), flipped(content, len(content) - 5), b""):
        file.write_bytes(damaged)
        with pytest.warns(UserWarning, match=f"resuming from {first}.*{file} is damaged"):
            assert latest_checkpoint(kept) == first
    with pytest.warns(UserWarning, match="resuming from"):
        again = train_agent(short, out=tmp_path, world=world, progress=False)
    assert again.content_hash() == whole.content_hash()  # it is finished: another one would not replace it
    shutil.rmtree(tmp_path / "policy")
    with pytest.warns(UserWarning, match="resuming from"):
        again = train_agent(short, out=tmp_path, world=world, progress=False)
    assert again.record["steps"] == whole.record["steps"] == 256
    assert latest_checkpoint(kept) == newest  # written again
    for path in (first, newest):
        (path / name).unlink()
    with pytest.raises(CheckpointDamagedError, match=r"no checkpoint in .* is intact"):
        train_agent(SMALL, out=tmp_path, world=world, progress=False)


def test_a_checkpoints_facts_cannot_be_edited(tmp_path):
    train_agent(dataclasses.replace(SMALL, total_steps=128), out=tmp_path, world=make_world(), progress=False)
    file = latest_checkpoint(tmp_path / "checkpoints") / "state.json"
    values = json.loads(file.read_text())
    values["state"]["config"]["gamma"] = 0.5
    file.write_text(json.dumps(values))
    with pytest.raises(CheckpointDamagedError, match=r"state.json is damaged or was altered"):
        latest_checkpoint(tmp_path / "checkpoints")


def test_evaluations_on_the_way_are_written_and_do_not_change_the_training(tmp_path):
    world = make_world()
    config = dataclasses.replace(SMALL, eval_every=256, eval_episodes=3)
    watched = train_agent(config, out=tmp_path / "a", world=world, evaluate_in=Brightness, progress=False)
    plain = train_agent(SMALL, out=tmp_path / "b", world=world, progress=False)
    entries = json.loads((tmp_path / "a" / "evaluations.json").read_text())
    assert [entry["steps"] for entry in entries] == [256, 512]
    assert all(entry["episodes"] == 3 for entry in entries)
    for name, value in tensors(watched).items():
        assert torch.equal(value, tensors(plain)[name])


def test_a_full_disk_harms_nothing(tmp_path, monkeypatch):
    policy = make_policy()
    policy.save(tmp_path / "policy")
    before = {path.name: path.read_bytes() for path in (tmp_path / "policy").iterdir()}

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="No space"):
        make_policy().save(tmp_path / "policy")
    assert {path.name: path.read_bytes() for path in (tmp_path / "policy").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]


def test_saved_policies_hold_no_pickle_and_damage_is_named(tmp_path):
    folder = make_policy().save(tmp_path / "policy")
    assert sorted(path.name for path in folder.iterdir()) == ["policy.json", "policy.safetensors"]
    with pytest.raises(CheckpointError, match="no policy"):
        SavedPolicy.load(tmp_path / "nowhere")
    values = json.loads((folder / "policy.json").read_text())
    write_json(folder / "policy.json", seal({**values, "format": 99}))
    with pytest.raises(CheckpointError, match="format 99"):
        SavedPolicy.load(folder)
    (folder / "policy.json").write_text(json.dumps({**values, "world_hash": "0"}))
    with pytest.raises(CheckpointDamagedError, match="was altered"):
        SavedPolicy.load(folder)
    write_json(folder / "policy.json", values)
    for file in sorted(folder.iterdir()):
        whole = file.read_bytes()
        for damaged in (whole[:50], *(flipped(whole, place) for place in range(8, len(whole), 997)), b""):
            file.write_bytes(damaged)
            with pytest.raises(CheckpointDamagedError, match=f"{file.name} is damaged"):
                SavedPolicy.load(folder)
        file.write_bytes(whole)
    SavedPolicy.load(folder)


def test_a_policy_replaces_policies_only(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "diary.txt").write_text("dear diary")
    with pytest.raises(StorageError, match="is no policy; it was left alone"):
        make_policy().save(tmp_path / "runs")
    assert (tmp_path / "runs" / "diary.txt").read_text() == "dear diary"


@pytest.mark.parametrize("space", [gym.spaces.Box(-1, 1, (2,), np.float32), gym.spaces.MultiDiscrete([3, 2])])
def test_policies_act_in_other_action_spaces(space):
    from dreamenv.agents.networks import build_policy

    config = dataclasses.replace(SMALL)
    seen = gym.spaces.Box(-1, 1, (2,), np.float32)
    policy = Policy(
        config=config, network=build_policy(config, seen, space), observation_space=seen, action_space=space
    )
    state = policy.start(np.arange(4))
    actions, state = policy.act(np.zeros((4, 2), np.float32), state)
    assert all(action in space for action in actions.astype(space.dtype))
    assert (actions != policy.act(np.zeros((4, 2), np.float32), state)[0]).any()
    modes = policy.act(np.zeros((4, 2), np.float32), state, deterministic=True)[0]
    assert (modes == modes[0]).all()


@pytest.mark.parametrize("observation", [LATENTS, FRAMES])
def test_a_policy_records_as_it_is_evaluated(tmp_path, observation):
    world = make_world()
    policy = make_policy(observation, world)
    result = evaluate(policy, Brightness, seeds=[3, 4], world=world)
    recorder = CollectionPolicy(policy.save(tmp_path / "policy"), world.save(tmp_path / "world"))
    env, returns = Brightness(), []
    for seed in (3, 4):
        frame, _ = env.reset(seed=seed)
        recorder.reset(seed)
        total, done = 0.0, False
        while not done:
            frame, reward, done, _, _ = env.step(recorder.act(frame))
            total += reward
        returns.append(total)
    assert returns == result.returns


def test_bad_settings_are_named(tmp_path):
    with pytest.raises(ConfigError, match="batch_size"):
        AgentConfig(ppo=PPOConfig(batch_size=500))
    with pytest.raises(ConfigError, match="gamma"):
        PPOConfig(gamma=1.5)
    with pytest.raises(ConfigError, match="num_envs"):
        AgentConfig(num_envs=0)
    with pytest.raises(ConfigError, match="real_envs"):
        AgentConfig(where="mixed", real_envs=64)
    with pytest.raises(UnknownNameError, match="recurrent_ppo"):
        AgentConfig(algorithm="recurent_ppo")
    with pytest.raises(ConfigError, match="world"):
        train_agent(SMALL, out=tmp_path)
    with pytest.raises(ConfigError, match="real environment"):
        train_agent(dataclasses.replace(SMALL, where="real"), out=tmp_path, world=make_world())
    with pytest.raises(DeviceError):
        train_agent(dataclasses.replace(SMALL, device="cuda:99"), out=tmp_path, world=make_world())
    assert AgentConfig.from_json(json.loads(json.dumps(SMALL.to_json()))) == SMALL


@pytest.mark.parametrize(
    ("limit", "given", "expected"), [(20, None, 20), (500, None, 128), (None, None, 128), (20, 30, 30)]
)
def test_dreams_to_learn_in_end_at_the_tasks_time_limit_where_it_is_shorter(limit, given, expected):
    world = make_world()
    world.provenance = make_provenance(max_episode_steps=limit)
    config = AgentConfig(num_envs=8, dream=DreamConfig(horizon=given))
    env = make_training_env(config, world=world)
    assert env.dreams.horizon == expected
    env.close()


def test_another_world_or_real_environment_than_the_checkpoints_is_refused(tmp_path):
    train_agent(SMALL, out=tmp_path / "dream", world=make_world(), progress=False)
    before = (tmp_path / "dream" / "policy" / "policy.json").read_bytes()
    longer = dataclasses.replace(SMALL, total_steps=1024)
    for config in (SMALL, longer):  # also where nothing is left to train
        with pytest.raises(CheckpointError, match="was made in another world"):
            train_agent(config, out=tmp_path / "dream", world=make_world(noise=0.1), progress=False)
    assert (tmp_path / "dream" / "policy" / "policy.json").read_bytes() == before
    assert train_agent(longer, out=tmp_path / "dream", world=make_world(), progress=False).record["steps"] == 1024

    real = dataclasses.replace(SMALL, where="real", observation=FRAMES, total_steps=128)
    train_agent(real, out=tmp_path / "real", real=Brightness, progress=False)
    with pytest.raises(CheckpointError, match="was made in another real environment"):
        train_agent(real, out=tmp_path / "real", real=functools.partial(Brightness, frame_skip=2), progress=False)


def test_a_finished_policy_without_its_description_is_made_again_from_the_checkpoint(tmp_path):
    world = make_world()
    before = tensors(train_agent(SMALL, out=tmp_path, world=world, progress=False))
    (tmp_path / "policy" / "policy.json").unlink()
    with pytest.raises(CheckpointError, match=r"dreamenv agent --out .* again as before: it goes on from its last"):
        SavedPolicy.load(tmp_path)
    train_agent(SMALL, out=tmp_path, world=world, progress=False)
    after = tensors(SavedPolicy.load(tmp_path))
    assert all(torch.equal(value, after[name]) for name, value in before.items())

    (tmp_path / "policy" / "policy.json").unlink()
    (tmp_path / "policy" / "notes.txt").write_text("mine")
    with pytest.raises(StorageError, match="no policy; it was left alone"):
        train_agent(SMALL, out=tmp_path, world=world, progress=False)
    assert (tmp_path / "policy" / "notes.txt").read_text() == "mine"
