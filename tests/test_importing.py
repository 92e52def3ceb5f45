"""What importing any system takes: reading files safely, names both ways, where dreams begin, rewards, the command."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import av
import gymnasium as gym
import numpy as np
import pytest
import torch
from PIL import Image
from public import starts_for
from safetensors.torch import save_file
from test_import_diamond import CONFIG, SPEC, agent
from toy import toy_dataset

from dreamenv.backbones.denoising.presets import tiny
from dreamenv.cli import main
from dreamenv.data.readers.minecraft import action_space
from dreamenv.diffusion.schedule import FullSequence
from dreamenv.dream import DreamEnv, DreamVectorEnv
from dreamenv.errors import ActionError, ConfigError, DatasetError, FrameError, UnknownNameError, WeightsError
from dreamenv.heads.no_reward import NoRewardHeadConfig
from dreamenv.heads.recurrent import RecurrentHeadConfig
from dreamenv.importers import export_world, import_world, learn_rewards, systems, with_rewards
from dreamenv.importers.checkpoints import read_tensors
from dreamenv.importers.key_map import KeyMap, Rule
from dreamenv.importers.starts import read_starts
from dreamenv.parts import part_from_json
from dreamenv.training import TrainConfig
from dreamenv.world import World

W = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)}
ROLE = gym.spaces.Discrete(3)


# Reading files


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: w,
        lambda w: {"state_dict": w, "epoch": 3, "arguments": argparse.Namespace(rate=0.1)},
        lambda w: {"model": {"b": torch.zeros(2)}, "ema": w, "opt": {"state": {}}},
        lambda w: {f"module.{name}": one for name, one in w.items()},
        lambda w: {f"_orig_mod.{name}": one for name, one in w.items()},
        lambda w: {f"net.{name}": one for name, one in w.items()} | {"lr": torch.zeros(1)},
    ],
)
def test_tensors_are_found_wherever_training_left_them(wrap, tmp_path):
    torch.save(wrap(W), tmp_path / "weights.pt")
    found = read_tensors(tmp_path / "weights.pt", prefixes=("net.",))
    assert list(found) == list(W)
    assert all(torch.equal(found[name], one) for name, one in W.items())


def test_safetensors_are_read(tmp_path):
    save_file(W, tmp_path / "weights.safetensors")
    assert list(read_tensors(tmp_path / "weights.safetensors")) == list(W)


class Bomb:
    """Would write a file when it is unpickled."""

    def __reduce__(self):
        return (Path.touch, (Path("went_off"),))


def test_a_pickle_that_holds_more_than_tensors_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": W, "more": Bomb()}, "weights.pt")
    with pytest.raises(WeightsError, match=r"holds also \S+, and reading that could run any code.*weights_only=False"):
        read_tensors("weights.pt")
    assert not Path("went_off").exists()


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_a_file_cut_short_is_refused(name, tmp_path):
    path = tmp_path / name
    torch.save(W, path) if name.endswith("pt") else save_file(W, path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(WeightsError, match=r"weights\.\S+ cannot be read .*Download it again"):
        read_tensors(path)


def test_no_file_and_no_tensors_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="there is no file"):
        read_tensors(tmp_path / "none.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(WeightsError, match="no tensors by name, but list"):
        read_tensors(tmp_path / "list.pt")


def test_names_go_both_ways():
    names = KeyMap([("blocks.*.fc.weight", "layers.*.qkv.weight"), Rule("e.*", "o.*.x", torch.t, torch.t)])
    theirs = {"blocks.10.fc.weight": W["b"], "e.3": W["a.weight"]}
    ours, unknown = names.to_ours(theirs | {"other": W["b"]})
    assert (list(ours), unknown) == (["layers.10.qkv.weight", "o.3.x"], ["other"])
    assert ours["o.3.x"].shape == (3, 2)
    back, unknown = names.to_theirs(ours)
    assert list(back) == list(theirs)
    assert torch.equal(back["e.3"], W["a.weight"])
    assert not unknown


# Parts


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: part_from_json({"kind": "gan"}), UnknownNameError, "part of the kind named 'gan'"),
        (lambda: part_from_json({"sight": 3}), ConfigError, "needs its 'kind'"),
        (lambda: part_from_json({"kind": "no_reward", "volume": 0}), UnknownNameError, "setting of 'no_reward'"),
        (lambda: NoRewardHeadConfig(sight=0), ConfigError, "sight must be at least 1"),
        (
            lambda: dataclasses.replace(CONFIG, schedule=FullSequence(frames=2)),
            ConfigError,
            "one frame at a time, not 2",
        ),
    ],
)
def test_parts_that_cannot_be_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_the_sight_of_a_head_without_rewards_is_the_width_of_what_a_policy_reads():
    for sight in (4, 8):
        head = NoRewardHeadConfig(sight=sight).build(SPEC.frame_shape, 3)
        assert head.embed({"frame": torch.rand(2, *SPEC.frame_shape)}).shape == (2, 3 * sight**2)


# Where dreams begin


def _frame(value: int, size: tuple[int, int] = (16, 16)) -> np.ndarray[Any, Any]:
    return np.full((*size, 3), value, np.uint8)


def test_dreams_begin_from_pictures(tmp_path):
    for value in (10, 20):
        Image.fromarray(_frame(value)).save(tmp_path / f"{value}.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    starts = read_starts(tmp_path, SPEC)
    assert starts.first_frames[:, 0, 0, 0].tolist() == [10, 20]
    assert starts.lengths.tolist() == [0, 0]
    assert len(read_starts(tmp_path / "10.png", SPEC)) == 1


def _write_video(path: Path, frames: int, size: int = 16) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=10, options={"qp": "0"})
        stream.width = stream.height = size
        stream.pix_fmt = "rgb24"
        for value in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(_frame(10 * value, (size, size)), format="rgb24")))
        container.mux(stream.encode())


def test_dreams_start_within_a_video_and_its_actions(tmp_path):
    _write_video(tmp_path / "clip.mp4", 8)
    np.save(tmp_path / "clip.npy", np.arange(7) % 3)
    spec = dataclasses.replace(SPEC, context_frames=2)
    starts = read_starts(tmp_path / "clip.mp4", spec)
    assert (len(starts), starts.actions.shape) == (6, (6, 2))
    for first, frames, actions in zip(starts.first_frames, starts.frames, starts.actions, strict=True):
        number = round(int(first[0, 0, 0]) / 10)
        assert [round(int(frame[0, 0, 0]) / 10) for frame in frames] == [number + 1, number + 2]
        assert actions.tolist() == [number % 3, (number + 1) % 3]  # row i leads from frame i to the next


def test_a_videos_actions_may_be_a_tensor_of_oasis(tmp_path):
    _write_video(tmp_path / "clip.mp4", 5)
    values = torch.rand(6, 25)
    torch.save(values, tmp_path / "clip.one_hot_actions.pt")  # the last ones led beyond the video
    spec = dataclasses.replace(SPEC, action_space=action_space(), context_frames=2)
    starts = read_starts(tmp_path / "clip.mp4", spec)
    np.testing.assert_array_equal(starts.actions[1], values[1:3].numpy())
    with pytest.raises(ActionError, match=r"\(25,\).*Discrete.*actions='vector'"):
        read_starts(tmp_path / "clip.mp4", SPEC)
    torch.save([values], tmp_path / "clip.one_hot_actions.pt")
    with pytest.raises(ActionError, match="holds a list"):
        read_starts(tmp_path / "clip.mp4", spec)
    torch.save({"code": Bomb()}, tmp_path / "clip.one_hot_actions.pt")
    with pytest.raises(ActionError, match="cannot be read"):
        read_starts(tmp_path / "clip.mp4", spec)


def test_dreams_begin_within_a_recording(tmp_path):
    toy_dataset(tmp_path / "toy", 3)
    starts = read_starts(tmp_path / "toy", SPEC, count=5)
    assert len(starts) == 5


def test_frames_of_another_size_are_resized_only_when_asked(tmp_path):
    Image.fromarray(_frame(9, (32, 48))).save(tmp_path / "large.png")
    with pytest.raises(FrameError, match=r"32 x 48 pixels .* has 16 x 16.*--resize"):
        read_starts(tmp_path, SPEC)
    assert read_starts(tmp_path, SPEC, resize=True).first_frames.shape == (1, 16, 16, 3)
    _write_video(tmp_path / "clip.mp4", 3, size=32)
    np.save(tmp_path / "clip.npy", np.zeros(2))
    with pytest.raises(FrameError, match="32 x 32"):
        read_starts(tmp_path / "clip.mp4", SPEC)


def test_starts_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="no picture, no video and no folder"):
        read_starts(tmp_path / "none", SPEC)
    _write_video(tmp_path / "clip.mp4", 4)
    with pytest.raises(ActionError, match=r"clip\.npy is missing"):
        read_starts(tmp_path / "clip.mp4", SPEC)
    np.save(tmp_path / "clip.npy", np.zeros(2))
    with pytest.raises(ActionError, match=r"4 frames, which 3 actions join, but clip\.npy has 2"):
        read_starts(tmp_path / "clip.mp4", SPEC)
    np.save(tmp_path / "clip.npy", np.zeros((3, 25)))
    with pytest.raises(ActionError, match=r"of shape \(25,\)"):
        read_starts(tmp_path / "clip.mp4", SPEC)
    (tmp_path / "broken.png").write_bytes(b"no")
    with pytest.raises(FrameError, match="cannot be read"):
        read_starts(tmp_path / "broken.png", SPEC)
    toy_dataset(tmp_path / "toy", 2)
    with pytest.raises(DatasetError, match=r"recorded with Discrete\(3\).*Discrete\(4\)"):
        read_starts(tmp_path / "toy", dataclasses.replace(SPEC, action_space=gym.spaces.Discrete(4)))


# The whole way


def test_the_command_makes_a_world_that_gym_makes(tmp_path, capsys):
    torch.save(agent(), tmp_path / "Catch.pt")
    Image.fromarray(_frame(9, (32, 48))).save(tmp_path / "start.png")
    files = ["diamond", str(tmp_path / "Catch.pt"), "--starts", str(tmp_path / "start.png")]
    assert main(["import", *files, "--out", str(tmp_path / "world")]) == 2
    assert "--resize" in capsys.readouterr().err
    assert not (tmp_path / "world").exists()
    assert main(["import", *files, "--out", str(tmp_path / "world"), "--resize"]) == 0
    assert "licence MIT" in capsys.readouterr().out
    env = gym.make("dreamenv:dreamenv/Dream-v0", world=tmp_path / "world", horizon=2)
    env.reset(seed=0)
    assert env.step(1)[0].shape == (16, 16, 3)
    world = World.load(tmp_path / "world")
    assert world.record["imported"]["files"].keys() == {"Catch.pt"}
    written = export_world(world, tmp_path / "back")
    assert [path.name for path in written] == ["agent.pt"]
    back, before = read_tensors(written[0]), agent()
    assert all(torch.equal(back[name], one) for name, one in before.items())


def test_unknown_systems_and_missing_files_are_refused(tmp_path):
    assert systems() == ("diamond", "diffusion-forcing", "mineworld", "nwm", "oasis")
    with pytest.raises(UnknownNameError, match="Did you mean 'diamond'"):
        import_world("diamonds", ["x"], starts=tmp_path)
    with pytest.raises(WeightsError, match=r"no files were named.*eloialonso"):
        import_world("diamond", [], starts=tmp_path)
    with pytest.raises(ConfigError, match="was not imported"):
        export_world(_without_rewards(), tmp_path)


# Rewards


def _without_rewards() -> World:
    torch.manual_seed(0)
    config = dataclasses.replace(tiny(), head=NoRewardHeadConfig())
    return World(config.build(SPEC), config, starts_for(SPEC))


def test_a_world_without_rewards_says_so_and_takes_a_function():
    world = _without_rewards()
    with pytest.warns(UserWarning, match="predicts no rewards, so all are 0. Pass reward_fn"):
        env = DreamEnv(world, horizon=3)
    env.reset(seed=0)
    assert env.step(0)[1] == 0

    seen = []

    def reward(frames: Any, actions: Any) -> Any:
        seen.append((frames, actions))
        return frames.mean((1, 2, 3)) + actions

    many = DreamVectorEnv(world, 2, reward_fn=reward)
    many.reset(seed=0)
    observations, rewards, *_ = many.step(np.array([0, 2]))
    assert rewards == pytest.approx(observations.mean((1, 2, 3)) + np.array([0, 2]))
    latent = DreamVectorEnv(world, 2, observation="latent", reward_fn=reward)
    latent.reset(seed=0)
    latent.step(np.array([0, 2]))
    assert np.array_equal(seen[0][0], seen[1][0])


@pytest.mark.parametrize("wrong", [lambda f, a: 1.0, lambda f, a: [np.nan, 0], lambda f, a: f])
def test_a_reward_function_that_gives_no_rewards_is_refused(wrong):
    env = DreamVectorEnv(_without_rewards(), 2, reward_fn=wrong)
    env.reset(seed=0)
    with pytest.raises(ConfigError, match="must return 2 finite numbers"):
        env.step(np.array([0, 1]))


def test_rewards_are_learned_and_frames_stay_as_they_were(tmp_path):
    world = _without_rewards()
    before = {name: one.clone() for name, one in world.model.denoiser.state_dict().items()}
    learned = learn_rewards(
        world, toy_dataset(tmp_path / "toy", 8), tmp_path / "run", steps=3,
        config=TrainConfig(progress=False, device="cpu", eval_horizon=4),
    )  # fmt: skip
    assert learned.spec.predicts_rewards
    assert learned.config.head == RecurrentHeadConfig(watches="frame")
    assert all(torch.equal(before[name], one) for name, one in learned.model.denoiser.state_dict().items())
    assert np.array_equal(World.load(tmp_path / "run" / "world").starts.first_frames, world.starts.first_frames)
    env = DreamEnv(learned, horizon=3)
    env.reset(seed=0)
    assert np.isfinite(env.step(0)[1])
    assert with_rewards(world).model is not world.model
