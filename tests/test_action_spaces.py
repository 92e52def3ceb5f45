"""Every kind of action space goes through the whole loop: recorded, learned, dreamt in, acted in, evaluated outside."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import minari
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from stable_baselines3 import PPO
from steering import REACH, SPACES, Steered
from test_training_resumes import settings

from dreamenv.action_layout import ActionLayout
from dreamenv.agents import (
    AgentConfig,
    CollectionPolicy,
    DreamVecEnv,
    NetworkConfig,
    ObservationConfig,
    PPOConfig,
    RandomActor,
    RealVecEnv,
    SavedPolicy,
    evaluate,
    train_agent,
)
from dreamenv.backbones.rssm import RSSMStage, RSSMTraining
from dreamenv.cli import main
from dreamenv.data import (
    EpisodeDataset,
    EpsilonPolicy,
    RandomPolicy,
    StickyRandomPolicy,
    collect,
    from_minari,
)
from dreamenv.dream import DreamConfig, DreamEnv, DreamVectorEnv, LatentObservation
from dreamenv.errors import WorldMismatchError
from dreamenv.presets import make_config
from dreamenv.training.trainer import train
from dreamenv.world import World

KINDS = list(SPACES)
PPO_SETTINGS = AgentConfig(
    observation=ObservationConfig(kind="latent"), total_steps=64, num_envs=4,
    ppo=PPOConfig(n_steps=8, batch_size=32, n_epochs=1), network=NetworkConfig(net_arch=(16,)),
    dream=DreamConfig(horizon=6), checkpoint_every=0, num_threads=1,
)  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def loop(request, tmp_path_factory):
    """A recording of the steered square and a hardly trained world of it."""
    kind, folder = request.param, tmp_path_factory.mktemp("loop")
    space = SPACES[kind][0]
    make_env = functools.partial(Steered, kind)
    dataset = collect(
        make_env, functools.partial(StickyRandomPolicy, space, 0.5), folder / "data", episodes=4, num_workers=0,
        progress=False,
    )  # fmt: skip
    config = settings(steps={"joint": 3, "dynamics": 3}, eval_horizon=4, eval_windows=2, starts=8, start_context=3)
    world = train(config, make_config("rssm", "tiny"), dataset, folder / "run")
    return kind, make_env, dataset, world, folder


def test_a_recording_holds_the_actions_as_they_were_and_minari_loads_it(loop):
    kind, make_env, dataset, _, _ = loop
    env, layout = make_env(), dataset.action_layout
    episode = dataset[1]
    assert episode.actions.shape == (12, *layout.shape)
    frame, _ = env.reset(seed=episode.seed)
    np.testing.assert_array_equal(frame, episode.frames[0])
    for action, expected in zip(episode.actions, episode.frames[1:], strict=True):
        np.testing.assert_array_equal(env.step(layout.unpack(action))[0], expected)
    theirs = minari.MinariDataset(dataset.path / "data")
    np.testing.assert_array_equal(theirs[1].actions, episode.actions)
    assert theirs.action_space == layout.flat_space
    assert EpisodeDataset.open(dataset.path).action_space == SPACES[kind][0]


def test_a_recording_copied_through_minari_keeps_its_action_space(loop, tmp_path):
    kind, _, dataset, _, _ = loop
    copy = from_minari(minari.MinariDataset(dataset.path / "data"), tmp_path / "copy")
    assert copy.action_space == SPACES[kind][0]
    assert copy.content_hash() == dataset.content_hash()


def test_a_world_keeps_its_action_space_on_disk(loop):
    kind, _, _, world, folder = loop
    loaded = World.load(folder / "run" / "world")
    assert loaded.spec == world.spec
    assert loaded.spec.action_space == SPACES[kind][0]
    assert loaded.starts.actions.shape[2:] == ActionLayout(SPACES[kind][0]).shape


@pytest.mark.filterwarnings("ignore:.*symmetric and normalized space")
def test_its_dreams_are_stepped_by_its_own_actions(loop):
    kind, _, _, world, _ = loop
    env, dreams = DreamEnv(world), DreamVectorEnv(world, 3)
    assert env.action_space == dreams.single_action_space == SPACES[kind][0]
    check_env(env, skip_render_check=True)
    for target in (env, dreams):
        target.reset(seed=0)
        target.action_space.seed(0)
        for _ in range(4):
            target.step(target.action_space.sample())


def test_batched_actions_arrays_and_tensors_mean_the_same(loop):
    kind, _, _, world, _ = loop
    layout, space = ActionLayout(SPACES[kind][0]), SPACES[kind][0]
    space.seed(3)
    packed = np.stack([layout.pack(space.sample()) for _ in range(2)])
    frames = []
    for actions in (layout.unpack_rows(packed), packed, torch.from_numpy(packed)):
        dreams = DreamVectorEnv(world, 2)
        dreams.reset(seed=1)
        frames.append(dreams.step(actions)[0])
    single = DreamEnv(world)
    single.reset(seed=1)
    frame = single.step(layout.unpack(packed[0]))[0]
    np.testing.assert_array_equal(frames[0], frames[1])
    np.testing.assert_array_equal(frames[0], frames[2])
    assert np.abs(frame.astype(int) - frames[0][0]).max() <= 1  # another batch size may round otherwise


def test_ppo_learns_in_its_dreams_and_the_policy_is_saved_evaluated_and_recorded_with(loop, tmp_path):
    kind, make_env, dataset, world, _ = loop
    policy = train_agent(PPO_SETTINGS, world=world, out=tmp_path / "policy", progress=False)
    loaded = SavedPolicy.load(tmp_path / "policy" / "policy")
    assert loaded.action_space == SPACES[kind][0]
    assert loaded.provenance == dataset.provenance
    dreamt = evaluate(loaded, world, episodes=3, horizon=5)
    outside = evaluate(loaded, make_env, episodes=3, world=world)
    assert outside.lengths == [12, 12, 12]
    assert outside.seeds == dreamt.seeds
    assert outside.scores == pytest.approx([REACH * total for total in outside.returns], abs=1e-4)
    assert evaluate(policy, make_env, episodes=3, world=world, num_envs=2).returns == outside.returns
    assert len(evaluate(RandomActor(SPACES[kind][0]), make_env, episodes=2).returns) == 2
    recorded = collect(
        make_env,
        lambda: EpsilonPolicy(CollectionPolicy(loaded, world), 0.5, SPACES[kind][0]),
        tmp_path / "more",
        episodes=2,
        num_workers=0,
        progress=False,
    )
    assert recorded[0].policy == "agent, epsilon 0.5"


def test_ppo_runs_in_reality_and_in_both(loop, tmp_path):
    _, make_env, _, world, _ = loop
    config = dataclasses.replace(PPO_SETTINGS, where="mixed", real_envs=2, total_steps=32)
    train_agent(config, world=world, real=make_env, out=tmp_path, progress=False)


def test_stable_baselines3_takes_the_dreams_as_they_are(loop):
    world = loop[3]
    PPO("MlpPolicy", DreamVecEnv(world, 4, observation="latent", horizon=5), n_steps=8, batch_size=32).learn(32)


def test_its_latents_are_the_same_in_the_real_environment(loop):
    kind, make_env, _, world, _ = loop
    wrapped, rows = LatentObservation(make_env(), world), RealVecEnv(make_env, 1, world=world)
    space = SPACES[kind][0]
    space.seed(5)
    one, _ = wrapped.reset(seed=4)
    for action in [space.sample() for _ in range(3)]:
        following = wrapped.step(action)[0]
        assert following.shape == one.shape
        assert not np.array_equal(following, one)
        one = following
    rows.close()


def test_a_policy_is_refused_where_the_actions_are_others(loop):
    kind, _, _, world, _ = loop
    other = next(name for name in KINDS if name != kind)
    with pytest.raises(WorldMismatchError, match="actions of"):
        evaluate(RandomActor(SPACES[other][0]), functools.partial(Steered, other), episodes=1, world=world)


# That the action matters


@pytest.mark.parametrize("kind", ["Box", "Dict"])
def test_the_dream_moves_as_the_action_says(tmp_path, kind):
    """After a short training the dreamt reward, which is the way to the right, follows that entry of the action."""
    space = SPACES[kind][0]
    dataset = collect(
        functools.partial(Steered, kind), functools.partial(RandomPolicy, space), tmp_path / "data", episodes=40,
        num_workers=0, progress=False,
    )  # fmt: skip
    config = settings(
        steps={"joint": 10, "dynamics": 120}, holdout=0.05, eval_every=0, eval_horizon=4, eval_windows=1, starts=16,
        start_context=2, checkpoint_every=1000,
    )  # fmt: skip
    stage = RSSMStage(steps=120, batch_size=8, sequence_length=12, learning_rate=3e-3)
    backbone = make_config("rssm", "tiny", training=RSSMTraining(dropout=0.0, dynamics=stage))
    world = train(config, backbone, dataset, tmp_path / "run")
    layout, meaning = ActionLayout(space), SPACES[kind][1]
    space.seed(0)
    actions = sorted((space.sample() for _ in range(40)), key=lambda action: meaning(action)[0])
    gained = []
    for chosen in (actions[:8], actions[-8:]):
        dreams = DreamVectorEnv(world, 8, temperature=0.5)
        dreams.reset(seed=0)
        gained.append(dreams.step(np.stack([layout.pack(action) for action in chosen]))[1])
    left, right = gained
    assert left.max() < -0.2 < 0.2 < right.min()


def test_every_number_of_an_action_reaches_the_dream():
    """Contrast: changing any one entry alone changes what an untrained model imagines."""
    from dreamenv.world_model import WorldModelSpec

    for kind in KINDS:
        space = SPACES[kind][0]
        layout = ActionLayout(space)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = make_config("rssm", "tiny").build(
                WorldModelSpec(frame_shape=(3, 16, 16), action_space=space, frame_rate=10.0)
            ).eval()  # fmt: skip
        state = model.start(torch.rand(1, 3, 16, 16), torch.zeros(1, dtype=torch.int64))
        base = layout.low.reshape(-1)
        memories = []
        for column in (None, *range(layout.size)):
            action = base.copy()
            if column is not None:
                action[column] += 1
            tensor = torch.from_numpy(action.reshape(1, 1, *layout.shape))
            memories.append(model.imagine(state, tensor)[1]["deter"])
        assert all(not torch.equal(one, other) for one, other in itertools.combinations(memories, 2)), kind


# On the command line


def test_the_command_line_supports_dictionary_actions(loop, tmp_path, capsys):
    kind, _, dataset, _, folder = loop
    space = SPACES[kind][0]
    for path in (dataset.path, folder / "run"):
        main(["info", str(path)])
        printed = capsys.readouterr().out
        assert str(space) in printed
        if isinstance(space, spaces.Dict):
            assert ", ".join(ActionLayout(space).names) in printed
    film = tmp_path / "film.mp4"
    assert (
        main(["play", str(folder / "run"), "--headless", "--actions", "random", "--steps", "3", "--out", str(film)])
        == 0
    )
    assert film.stat().st_size > 0
