"""Prompts, slow, next to actions, fast: from captions in recordings to dreams, and what is measured of them."""

from __future__ import annotations

import dataclasses
import importlib
import warnings
from pathlib import Path

import gymnasium as gym
import minari
import numpy as np
import pytest
import torch
from PIL import Image
from toy import ToyEnv, empty_dataset, random_episode, toy_dataset

from dreamenv import DreamConfig, DreamEnv, DreamVectorEnv, World
from dreamenv.backbones.rssm import PromptConfig, RSSMConfig
from dreamenv.backbones.rssm.presets import tiny
from dreamenv.benchmarks.panorama import PANS, Panorama, caption, find_objects, record_panorama
from dreamenv.benchmarks.prompting import PANORAMA, Prompting, film_of_reality, run, with_guidance
from dreamenv.data import (
    Episode,
    EpisodeDataset,
    FrameStore,
    RandomPolicy,
    Starts,
    WindowSampler,
    collect,
    from_minari,
    with_captions,
)
from dreamenv.data.readers import NpzSettings, convert, open_npz
from dreamenv.errors import (
    ConfigError,
    DatasetError,
    EpisodeError,
    InputError,
    PromptError,
    RecordingError,
    ResetNeededError,
)
from dreamenv.metrics.prompts import PromptTask, follow_prompts, returns_to_prompt
from dreamenv.nn.text import BagOfWords
from dreamenv.parts import part_from_json, part_to_json
from dreamenv.testing import SPEC, PromptContract
from dreamenv.text import MOST_WORDS, hash_text
from dreamenv.training import TrainConfig, train

PROMPTED = dataclasses.replace(tiny(), prompt=PromptConfig(embed_dim=8, buckets=64))


class TestPromptedRSSM(PromptContract):
    config = PROMPTED


class TestGuidedRSSM(PromptContract):
    config = dataclasses.replace(
        PROMPTED,
        prompt=dataclasses.replace(PROMPTED.prompt, prompt_guidance_scale=1.5, action_guidance_scale=2.0),
    )
    overfit_steps = 0

    def test_one_batch_can_be_overfitted(self) -> None:
        """Guidance is of dreams alone: training is that of the class above."""


def teach(model: torch.nn.Module, *texts: str) -> None:
    """Let a model know words, as if it had been trained on them."""
    encoder = model.prompt_encoder
    rows = encoder._rows(encoder.encode(texts)).unique()
    with torch.no_grad():
        encoder.table[rows[rows > 0]] = torch.randn(
            int((rows > 0).sum()), encoder.table.shape[1], generator=torch.Generator().manual_seed(0)
        )


def make_world(config: RSSMConfig = PROMPTED, *, known: tuple[str, ...] = ("pan left", "red blue objects")) -> World:
    torch.manual_seed(0)
    model = config.build(SPEC).eval()
    if config.prompt is not None:
        teach(model, *known)
    first = np.random.default_rng(0).integers(256, size=(3, 16, 16, 3), dtype=np.uint8)
    starts = Starts(
        first_frames=first, actions=np.zeros((3, 0), np.int64), frames=np.zeros((3, 0, 16, 16, 3), np.uint8),
        lengths=np.zeros(3, np.int64), at_episode_start=np.ones(3, np.bool_),
    )  # fmt: skip
    return World(model=model, config=config, starts=starts)


# Words


def test_the_same_words_are_the_same_text() -> None:
    assert hash_text("Red objects").tolist() == hash_text("objects, red! RED").tolist()
    assert hash_text("red objects").tolist() != hash_text("red object").tolist()
    assert hash_text("").tolist() == [0] * MOST_WORDS


def test_a_bag_of_words_knows_what_it_has_not_learned() -> None:
    bag = BagOfWords(64, 4)
    assert bag.unknown_words("red things") == ["red", "things"]
    optimizer = torch.optim.Adam(bag.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (bag(bag.encode(["red"])) - 1).square().sum().backward()
        optimizer.step()
    assert bag.unknown_words("red things") == ["things"]
    red, both, none = bag(bag.encode(["red", "red things", ""]))
    assert torch.equal(none, torch.zeros(4))
    assert not torch.equal(red, none)
    assert torch.equal(red, both)  # what is not known says nothing


# Captions in recordings


def test_captions_come_back_from_disk_and_are_none_where_there_were_none(tmp_path: Path) -> None:
    dataset = empty_dataset(tmp_path / "data")
    said = ("pan left", "pan left", "", "red")
    dataset.append(dataclasses.replace(random_episode(4), captions=said))
    dataset.append(random_episode(4))
    dataset.append(dataclasses.replace(random_episode(4), captions="pan left"))
    read = EpisodeDataset.open(tmp_path / "data")
    assert [episode.captions for episode in read] == [said, None, ("pan left",) * 4]
    assert len({record.sha256 for record in read.records}) == 3
    theirs = minari.MinariDataset(tmp_path / "data" / "data")
    assert [len(episode.actions) for episode in theirs] == [4, 4, 4]
    assert from_minari(theirs, tmp_path / "copy")[0].captions is None  # Minari knows no captions


def test_an_episode_without_captions_is_what_it_was_before_there_were_any(tmp_path: Path) -> None:
    episode = random_episode(4)
    assert dataclasses.replace(episode, captions=("",) * 4).digest() == episode.digest()
    assert dataclasses.replace(episode, captions="red").digest() != episode.digest()
    store = FrameStore(toy_dataset(tmp_path / "data", episodes=2))
    assert store.prompts is None
    assert WindowSampler(store, batch_size=2, sequence_length=3, seed=0).batch(0).prompts is None


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        (["red"], "4 captions"),
        ([1, 2, 3, 4], "step 0"),
        (["a", "b", "c", "!?"], "step 3"),
        (" ".join(map(str, range(40))), "40 different words"),
    ],
)
def test_captions_that_cannot_be_are_refused_by_step(captions: object, message: str) -> None:
    with pytest.raises(EpisodeError, match=message):
        dataclasses.replace(random_episode(4), captions=captions)


def test_a_window_has_the_caption_that_was_in_force_when_the_action_was_taken(tmp_path: Path) -> None:
    dataset = record_panorama(tmp_path / "data", 3)
    store = FrameStore(dataset)
    batch = WindowSampler(store, batch_size=8, sequence_length=10, seed=0).batch(0)
    assert batch.prompts is not None
    assert batch.prompts.shape == (8, 10, MOST_WORDS)
    known = {tuple(hash_text(text).tolist()): text for episode in dataset for text in episode.captions}
    for row in range(8):
        frames = torch.cat((batch.first_frame[row, None], batch.frames[row]))
        for step in range(10):
            pan = known[tuple(batch.prompts[row, step].tolist())]
            moved = int(batch.actions[row, step]) or (1 if "left" in pan else 2 if "right" in pan else 0)
            before, after = frames[step], frames[step + 1]
            expected = {
                0: (before, after),
                1: (before[..., :-4], after[..., 4:]),
                2: (before[..., 4:], after[..., :-4]),
            }
            assert torch.equal(*expected[moved])


class Said(ToyEnv):
    """The toy environment, which says where the paddle is."""

    def _info(self):
        return {**super()._info(), "caption": f"paddle at {self.paddle}"}


class Mission(gym.Env):
    """As MiniGrid gives its mission; it says nothing of itself."""

    def __init__(self) -> None:
        self.toy = ToyEnv()
        self.action_space = self.toy.action_space
        text = gym.spaces.Text(20)
        self.observation_space = gym.spaces.Dict({"image": self.toy.observation_space, "mission": text})

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        frame, info = self.toy.reset(seed=seed)
        return {"image": frame, "mission": "catch the square"}, info

    def step(self, action):
        frame, *rest = self.toy.step(action)
        return {"image": frame, "mission": "catch the square"}, *rest


def test_the_recorder_writes_what_the_environment_says(tmp_path: Path) -> None:
    def policy() -> RandomPolicy:
        return RandomPolicy(ToyEnv().action_space)

    episode = collect(Said, policy, tmp_path / "said", steps=7, num_workers=0, progress=False)[0]
    assert episode.captions is not None
    for frame, said in zip(episode.frames, episode.captions, strict=False):
        paddle = int((frame[-1] == (60, 160, 255)).all(axis=-1).argmax())
        assert said == f"paddle at {paddle}"
    mission = collect(Mission, policy, tmp_path / "mission", steps=5, num_workers=0, progress=False)
    assert mission[0].captions == ("catch the square",) * len(mission[0])


def test_captions_of_ones_own_make_a_copy_or_nothing(tmp_path: Path) -> None:
    dataset = toy_dataset(tmp_path / "data", episodes=3)
    copy = with_captions(dataset, ["red", None, ["blue"] * len(dataset[2])], tmp_path / "copy")
    assert [episode.captions and episode.captions[-1] for episode in copy] == ["red", None, "blue"]
    assert [episode.captions for episode in dataset] == [None] * 3
    assert np.array_equal(copy[1].frames, dataset[1].frames)
    by_function = with_captions(dataset, lambda episode: f"seed {episode.seed}", tmp_path / "function")
    assert by_function[2].captions[0] == "seed 2"
    with pytest.raises(DatasetError, match="not empty"):
        with_captions(dataset, ["red"] * 3, tmp_path / "copy")
    with pytest.raises(ConfigError, match="3 episodes"):
        with_captions(dataset, ["red"], tmp_path / "short")
    with pytest.raises(EpisodeError, match="episode 1"):
        with_captions(dataset, ["red", ["red"], None], tmp_path / "wrong")
    assert not (tmp_path / "short").exists()
    assert not (tmp_path / "wrong").exists()


def test_an_npz_file_may_have_captions(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    said = np.array(["", "red", "red", "blue", "", "left"])
    np.savez(tmp_path / "one.npz", image=frames, action=np.arange(6) % 3, caption=said)
    episode = convert(open_npz([tmp_path / "one.npz"], NpzSettings()), tmp_path / "data", progress=False).dataset[0]
    assert episode.captions == ("red", "red", "blue", "", "left")  # of the actions that led to the rows' frames
    np.savez(tmp_path / "two.npz", image=frames, action=np.arange(6) % 3, caption=np.arange(6))
    with pytest.raises(RecordingError, match="a string per row"):
        convert(open_npz([tmp_path / "two.npz"]), tmp_path / "other", progress=False)


# Dreams


def test_each_row_dreams_under_its_own_prompt_and_the_rest_as_before() -> None:
    world, actions = make_world(), np.zeros(3, np.int64)
    env, other = DreamVectorEnv(world, 3), DreamVectorEnv(world, 3)
    options = {"start": [0, 1, 2], "prompt": [None, "pan left", None]}
    env.reset(seed=0, options=options)
    other.reset(seed=0, options={"start": [0, 1, 2]})
    seen, plain = ([one.step(actions)[0] for _ in range(8)] for one in (env, other))
    different = np.any(np.stack(seen) != np.stack(plain), axis=(0, 2, 3, 4))
    assert different.tolist() == [False, True, False]


def test_a_prompt_may_change_within_a_dream_and_keeps_the_rows_random_stream() -> None:
    world, actions = make_world(), np.zeros(2, np.int64)
    env, other = DreamVectorEnv(world, 2), DreamVectorEnv(world, 2)
    for one in (env, other):
        one.reset(seed=0, options={"start": 0, "prompt": "red"})
        one.step(actions)
    env.prompt("blue", rows=1)
    env.prompt("red", rows=[1])
    np.testing.assert_array_equal(env.step(actions)[0], other.step(actions)[0])
    env.prompt(None)
    assert not env.get_state()["dream", "prompt"].any()
    env.prompt(["red", "blue"])
    words = env.get_state()["dream", "prompt"][:, 0].tolist()
    assert words == [int(hash_text("red")[0]), int(hash_text("blue")[0])]


def test_states_carry_their_prompts() -> None:
    world, actions = make_world(), np.zeros(2, np.int64)
    env = DreamVectorEnv(world, 2)
    env.reset(seed=0, options={"prompt": ["red", None]})
    state, branched = env.get_state(), env.branch(0, 2)
    expected = env.step(actions)[0]
    env.prompt("blue")
    env.set_state(state)
    np.testing.assert_array_equal(env.step(actions)[0], expected)
    assert torch.equal(branched["dream", "prompt"][1], state["dream", "prompt"][0])
    state["dream", "prompt"][0, 0] = 2**40
    with pytest.raises(InputError, match="prompt"):
        env.set_state(state)


def test_dreams_begin_with_the_prompt_of_the_configuration_also_after_an_autoreset() -> None:
    world, red = make_world(), int(hash_text("red")[0])
    env = DreamVectorEnv(world, 2, horizon=2, autoreset_mode="SameStep", config=DreamConfig(prompt="red"))
    env.reset(seed=0, options={"prompt": [None, "blue"]})
    first = env.get_state()["dream", "prompt"][:, 0].tolist()
    assert first == [red, int(hash_text("blue")[0])]
    for _ in range(2):
        env.step(np.zeros(2, np.int64))
    assert env.get_state()["dream", "prompt"][:, 0].tolist() == [red, red]
    assert DreamConfig.from_json(DreamConfig(prompt="red").to_json()).prompt == "red"


def test_a_single_dream_takes_prompts_too() -> None:
    env = DreamEnv(make_world())
    env.reset(seed=0, options={"prompt": "pan left"})
    env.prompt("red objects")
    env.step(0)
    assert int(env.get_state()["dream", "prompt"][0, 0]) == int(hash_text("red objects")[0])


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "None for none"),
        (" !", "no word"),
        (5, "string"),
        (["red"], "3 rows"),
        ("ochre swans", "none of the words"),
        (["red", "", None], "no word"),
    ],
)
def test_prompts_that_make_no_sense_are_refused_and_change_nothing(prompt: object, message: str) -> None:
    env = DreamVectorEnv(make_world(), 3)
    with pytest.raises(PromptError, match=message):
        env.reset(seed=0, options={"prompt": prompt})
    env.reset(seed=0, options={"prompt": "red"})
    before = env.get_state()["dream", "prompt"].clone()
    with pytest.raises(PromptError, match=message):
        env.prompt(prompt)
    assert torch.equal(env.get_state()["dream", "prompt"], before)


def test_a_world_that_takes_no_prompts_says_so() -> None:
    world = make_world(tiny())
    env = DreamVectorEnv(world, 2)
    with pytest.raises(PromptError, match="takes no prompts"):
        env.reset(options={"prompt": "red"})
    env.reset(seed=0, options={"prompt": None})
    env.prompt(None)
    with pytest.raises(PromptError, match="takes no prompts"):
        env.prompt([None, "red"])
    with pytest.raises(PromptError, match="takes no prompts"):
        DreamVectorEnv(world, 2, prompt="red")
    with pytest.raises(ConfigError, match="no word"):
        DreamConfig(prompt="")


def test_rows_and_times_that_are_none_are_refused() -> None:
    env = DreamVectorEnv(make_world(), 2)
    with pytest.raises(ResetNeededError):
        env.prompt("red")
    env.reset(seed=0)
    with pytest.raises(InputError, match="no row 2"):
        env.prompt("red", rows=[0, 2])


def test_words_that_a_world_has_not_learned_are_named() -> None:
    env = DreamVectorEnv(make_world(), 1)
    with pytest.warns(UserWarning, match="'ochre'"):
        env.reset(seed=0, options={"prompt": "ochre objects"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env.prompt("red objects")


def test_guidance_of_one_changes_nothing_and_of_zero_ignores_the_action() -> None:
    world = make_world()
    with torch.no_grad():
        world.model.prompting.null_action.normal_(generator=torch.Generator().manual_seed(0))
    frames = {}
    for weights in ((1.0, 1.0), (1.0, 0.0), (3.0, 3.0)):
        for action in (0, 2):
            env = DreamVectorEnv(with_guidance(world, *weights), 4)
            env.reset(seed=0, options={"start": 0, "prompt": "red"})
            frames[weights, action] = env.step(np.full(4, action))[0]
    assert np.array_equal(frames[(1.0, 0.0), 0], frames[(1.0, 0.0), 2])  # the first step: memory holds no action yet
    assert not np.array_equal(frames[(1.0, 1.0), 0], frames[(3.0, 3.0), 0])


# Training


def test_a_world_without_prompts_is_written_as_it_was_before_there_were_any() -> None:
    assert "prompt" not in part_to_json(tiny())
    assert part_to_json(PROMPTED)["prompt"]["kind"] == "rssm_prompt"
    assert part_from_json(part_to_json(tiny())) == tiny()


def test_a_world_learns_words_from_captions_and_needs_them(tmp_path: Path) -> None:
    config = dataclasses.replace(
        PROMPTED,
        training=dataclasses.replace(
            PROMPTED.training,
            joint=dataclasses.replace(PROMPTED.training.joint, steps=2),
            dynamics=dataclasses.replace(PROMPTED.training.dynamics, steps=2),
        ),
    )
    quick = TrainConfig(num_threads=1, progress=False)
    with pytest.raises(ConfigError, match="with_captions"):
        train(quick, config, toy_dataset(tmp_path / "plain", episodes=2), tmp_path / "none")
    recording = record_panorama(tmp_path / "data", 4)
    world = train(quick, config, recording, tmp_path / "run")
    assert world.model.prompt_encoder.unknown_words("camera pans left, red ochre objects") == ["ochre"]
    again = World.load(tmp_path / "run" / "world")
    assert again.config == world.config
    env = DreamVectorEnv(again, 2, horizon=4)
    env.reset(seed=0, options={"prompt": ["camera pans left", None]})
    env.step(np.zeros(2, np.int64))


# The measure


class Eyes:
    """Sees pans exactly, in place of a trained network."""

    def recognise(self, frames: np.ndarray) -> np.ndarray:
        seen = []
        for *_, before, after in frames:
            left = np.array_equal(before[:, :-4], after[:, 4:])
            right = np.array_equal(before[:, 4:], after[:, :-4])
            seen.append(0 if np.array_equal(before, after) else 1 if left else 2 if right else 0)
        return np.array(seen)


def test_reality_follows_the_action_and_reveals_what_the_caption_says() -> None:
    found = follow_prompts(PANORAMA, film_of_reality, Eyes(), repeats=2)
    for case in ("agree", "prompt_only", "action_only", "conflict"):
        assert found[case]["motion"]["mean"] > 0.95, case
    for case in ("agree", "prompt_only", "conflict"):
        assert found[case]["content"]["mean"] == 1, case
    assert found["action_only"]["content"] is None
    assert found["leakage"] < 0.2
    back = returns_to_prompt(PANORAMA, film_of_reality, Eyes(), repeats=1)
    assert back["steps"] == 1
    assert back["within"]["mean"] > 0.9


def test_a_world_that_is_deaf_to_prompts_or_blind_to_actions_is_told_apart() -> None:
    def deaf(takes):
        return film_of_reality([dataclasses.replace(take, behaviour=None, content=None) for take in takes])

    def blind(takes):
        return film_of_reality([dataclasses.replace(take, actions=(0,) * len(take.actions)) for take in takes])

    found = follow_prompts(PANORAMA, deaf, Eyes(), repeats=2)
    assert found["conflict"]["motion"]["mean"] > 0.95
    assert found["conflict"]["content"]["mean"] < 0.5
    assert found["prompt_only"]["motion"]["mean"] < 0.1
    found = follow_prompts(PANORAMA, blind, Eyes(), repeats=2)
    assert found["conflict"]["motion"]["mean"] < 0.1
    assert found["prompt_only"]["motion"]["mean"] > 0.95


def test_the_measure_needs_a_conflict() -> None:
    with pytest.raises(ConfigError, match="conflict"):
        PromptTask(behaviours={"left": 1}, contents=("red",), noop=0, say=caption, reveal=PANORAMA.reveal)


def test_the_detector_finds_what_the_panorama_drew() -> None:
    env = Panorama()
    frame, _ = env.reset(seed=0)
    drawn = {(x, *column) for x, column in enumerate(env._strip) if column is not None}
    assert set(find_objects(frame)) == drawn
    assert set(PANS) == set(PANORAMA.behaviours)


# What users run


def test_the_example_goes_from_captions_to_dreams_under_prompts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "examples"))
    example = importlib.import_module("prompts")
    example.main(tmp_path, episodes=8, joint_steps=2, dynamics_steps=2)
    sheet = np.asarray(Image.open(tmp_path / "dreams.png"))
    assert sheet.shape == (4 * 16 * 5, 12 * 16 * 5, 3)
    assert "camera pans" in capsys.readouterr().out


def test_the_benchmark_measures_both_recordings_and_reality(tmp_path: Path) -> None:
    settings = Prompting(
        out=tmp_path, episodes=8, joint_steps=2, dynamics_steps=2, probe_steps=2, repeats=1, seeds=(0,),
        prompt_scales=(1.0,), action_scales=(0.5, 1.0),
    )  # fmt: skip
    results = run(settings)
    assert set(results) == {
        "reality", "conflicts_recorded, seed 0", "no_conflicts_recorded, seed 0", "without_captions, seed 0",
    }  # fmt: skip
    guided = results["no_conflicts_recorded, seed 0"]["guidance"]
    assert set(guided) == {"prompt 1, action 0.5", "prompt 1, action 1"}
    assert 0 <= guided["prompt 1, action 1"]["conflict"]["motion"]["mean"] <= 1
    assert (tmp_path / "prompting.json").exists()
    assert np.asarray(Image.open(tmp_path / "prompting.png")).std() > 1
    conflicts, none = (EpisodeDataset.open(tmp_path / f"recording-{name}-8") for name in RECORDINGS)
    assert sum(map(contradictions, conflicts)) > 0
    assert sum(map(contradictions, none)) == 0


RECORDINGS = ("conflicts_recorded", "no_conflicts_recorded")


def contradictions(episode: Episode) -> int:
    """Steps whose action pans against their caption."""
    against = {1: "right", 2: "left"}
    return sum(
        int(action) in against and against[int(action)] in said
        for action, said in zip(episode.actions, episode.captions or (), strict=False)
    )
