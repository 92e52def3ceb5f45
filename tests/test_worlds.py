"""Worlds on disk: saved, loaded, and refused when they are not whole."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from drifting import make_provenance, make_starts, make_world
from safetensors.torch import load_file

from dreamenv.backbones.rssm import RSSMStage
from dreamenv.backbones.rssm.presets import tiny
from dreamenv.dream import DreamVectorEnv
from dreamenv.errors import (
    DeviceError,
    StorageError,
    WorldDamagedError,
    WorldMismatchError,
    WorldNotFoundError,
    WorldVersionError,
)
from dreamenv.model_card import make_model_card
from dreamenv.shipped import shipped_worlds
from dreamenv.storage import seal, write_json
from dreamenv.testing import SPEC
from dreamenv.world import World


@pytest.fixture
def saved(tmp_path) -> Path:
    world = make_world(noise=0.03)
    world.record = {"steps": 12, "command": "dreamenv train"}
    world.metrics = {"psnr_1": 31.5}
    return world.save(tmp_path / "grey")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def rewrite(folder: Path, **changes) -> None:
    """Write another description, as somebody would who made such a world."""
    file = folder / "world.json"
    write_json(file, seal({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Discrete(3),
        gym.spaces.MultiDiscrete([2, 3]),
        gym.spaces.MultiBinary(3),
        gym.spaces.Box(-1, 1, (2,), np.float32),
        gym.spaces.Dict(
            {"camera": gym.spaces.Box(-10, 10, (2,)), "keys": gym.spaces.Dict({"jump": gym.spaces.Discrete(2)})}
        ),
    ],
)
def test_a_loaded_world_is_the_one_that_was_saved(tmp_path, space):
    world = make_world(noise=0.03, termination=0.01, space=space)
    world.record, world.metrics = {"steps": 12}, {"psnr_1": 31.5}
    world.model.scale.data[0] = 1.25
    loaded = World.load(world.save(tmp_path / "grey"))
    assert loaded.config == world.config
    assert loaded.spec == world.spec
    assert loaded.provenance == world.provenance
    assert (loaded.record, loaded.metrics) == (world.record, world.metrics)
    assert torch.equal(loaded.model.scale, world.model.scale)
    np.testing.assert_array_equal(loaded.starts.frames, world.starts.frames)
    assert loaded.content_hash() == world.content_hash()
    assert loaded.fingerprint == world.fingerprint


def test_a_loaded_world_dreams_the_same_dreams(saved):
    dreams = [DreamVectorEnv(world, 3) for world in (make_world(noise=0.03), World.load(saved), str(saved))]
    for env in dreams:
        env.reset(seed=1)
    for _ in range(10):
        frames = [env.step([0, 1, 2])[0] for env in dreams]
        np.testing.assert_array_equal(frames[0], frames[1])
        np.testing.assert_array_equal(frames[0], frames[2])


def test_the_content_hash_distinguishes_worlds_but_not_their_records():
    world, same, model, settings = make_world(), make_world(), make_world(), make_world(noise=0.5)
    same.record["note"] = "of no consequence"
    model.model.scale.data[1] = 2.0
    assert world.content_hash() == same.content_hash()
    assert len({world.content_hash() for world in (world, model, settings)}) == 3
    assert len({world.fingerprint for world in (world, model, settings)}) == 3


def test_training_settings_do_not_change_the_content_hash():
    """States are accepted, and policies recognise their world, by what a dream depends on."""
    config = tiny()
    training = dataclasses.replace(config.training, dynamics_weight=0.7, joint=RSSMStage(
        steps=9, batch_size=2, sequence_length=3,
    ))  # fmt: skip
    made = [config, dataclasses.replace(config, training=training), dataclasses.replace(config, unimix=0.02)]
    model = config.build(SPEC)
    worlds = []
    for one in made:
        other = one.build(SPEC)
        other.load_state_dict(model.state_dict())
        worlds.append(World(other, one, make_starts(), make_provenance()))
    assert worlds[0].fingerprint == worlds[1].fingerprint != worlds[2].fingerprint
    assert worlds[0].content_hash() == worlds[1].content_hash() != worlds[2].content_hash()


def test_neither_saving_nor_loading_pickles(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("pickled")

    world = make_world()
    for name in ("dump", "dumps", "load", "loads", "Pickler", "Unpickler"):
        monkeypatch.setattr(f"pickle.{name}", refuse)
    World.load(world.save(tmp_path / "grey"))


def test_half_precision_takes_half_the_room_and_is_read_back_as_it_was_hashed(tmp_path):
    world = make_world()
    world.model.scale.data[:] = torch.tensor([1 / 3, 2 / 3])
    folder = world.save(tmp_path / "half", half=True)
    assert load_file(folder / "model.safetensors")["scale"].dtype == torch.float16
    loaded = World.load(folder)
    assert loaded.model.scale.dtype == torch.float32
    torch.testing.assert_close(loaded.model.scale, world.model.scale, rtol=1e-3, atol=0)
    assert loaded.content_hash() == json.loads((folder / "world.json").read_text())["content_hash"]
    assert torch.equal(world.model.scale.data, torch.tensor([1 / 3, 2 / 3]))


def test_weights_of_any_memory_layout_are_saved(tmp_path):
    world = make_world()
    world.model.register_buffer("kernel", torch.rand(4, 3, 2, 2).to(memory_format=torch.channels_last))
    world.model.register_buffer("view", world.model.kernel[:, 1])
    folder = world.save(tmp_path / "grey")
    assert torch.equal(load_file(folder / "model.safetensors")["kernel"], world.model.kernel)


def test_the_model_card_describes_the_world(saved):
    card = (saved / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: dreamenv\n")
    for fact in (
        "# grey",
        "`Toy-v0`",
        "16 x 16",
        "8.75 per second",
        "`stay`, `left`, `right`",
        '"psnr_1": 31.5',
        '"steps": 12',
    ):
        assert fact in card


def test_a_model_card_escapes_what_it_prints():
    evil = "`|</td><script>alert(1)</script>\n# Owned\n---\n![x](y)"
    description = {
        "provenance": {"environment_id": evil, "action_names": [evil], "score": evil, "action_table": [evil]},
        "spec": {"frame_shape": [3, 4, 5], "frame_rate": 1.0, "action_space": {"type": evil}},
        "backbone": {"kind": evil, "note": "```\n# Owned"},
        "record": {"note": "```\n<script>alert(2)</script>"},
    }
    card = make_model_card(evil, description)
    body = card.split("\n---\n", 1)[1].replace("\\`", "")
    prose = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", body, flags=re.DOTALL)  # without what is shown as code
    assert "<script" not in prose
    assert "![x]" not in prose
    assert not [line for line in prose.splitlines() if line.startswith("# Owned")]
    assert [line for line in card.splitlines() if line.startswith("---")] == ["---", "---"]


def test_a_model_card_may_be_edited_or_removed(saved):
    (saved / "README.md").write_text("mine")
    World.load(saved)
    (saved / "README.md").unlink()
    World.load(saved)


def test_saving_again_replaces_the_world_and_leaves_no_other_files(saved):
    world = World.load(saved)
    world.metrics["psnr_1"] = 40.0
    world.save(saved)
    assert World.load(saved).metrics == {"psnr_1": 40.0}
    assert [path.name for path in saved.parent.iterdir()] == ["grey"]


def test_what_else_lies_in_the_folder_of_a_world_stays_there_when_it_is_saved_again(saved):
    (saved / "notes.txt").write_text("mine")
    (saved / "pictures").mkdir()
    (saved / "pictures" / "one.txt").write_text("mine too")
    World.load(saved).save(saved)
    assert (saved / "notes.txt").read_text() == "mine"
    assert (saved / "pictures" / "one.txt").read_text() == "mine too"
    files = {path.name for path in saved.rglob("*") if path.is_file()}
    assert files == {
        "README.md",
        "frames.npy.zst",
        "model.safetensors",
        "notes.txt",
        "one.txt",
        "segments.npz",
        "world.json",
    }
    assert "notes.txt" not in (saved / "world.json").read_text()
    (saved / "world.json").write_text("{}")  # nobody knows what was the world's own
    make_world().save(saved)
    assert World.load(saved)
    assert (saved / "notes.txt").exists()


def test_saving_over_something_that_is_no_world_is_refused(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("dear diary")
    with pytest.raises(StorageError, match="is no world"):
        make_world().save(tmp_path / "notes")
    (tmp_path / "file").write_text("dear diary")
    with pytest.raises(StorageError, match="is no world"):
        make_world().save(tmp_path / "file")
    assert contents(tmp_path) == {"notes/diary.txt": b"dear diary", "file": b"dear diary"}


@pytest.mark.parametrize(
    "where", ["dreamenv.world.write_tensors", "os.fsync", "pathlib.Path.write_text", "pathlib.Path.rename"]
)
def test_a_full_disk_leaves_the_world_that_was_there(saved, monkeypatch, where):
    before = contents(saved)
    world = World.load(saved)
    world.model.scale.data += 1

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(where, full)
        with pytest.raises(StorageError, match="No space left on device"):
            world.save(saved)
    assert contents(saved) == before
    assert [path.name for path in saved.parent.iterdir()] == ["grey"]


def test_a_truly_full_disk_is_reported(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    world = make_world()

    class Full:
        def __len__(self):
            return 1

        def save(self, folder):
            Path("/dev/full").write_bytes(b"1" * 10_000)

    hashed = world.starts
    world.starts = Full()
    with pytest.raises(StorageError, match="No space left on device"):
        world.save(tmp_path / "grey")
    assert list(tmp_path.iterdir()) == []
    world.starts = hashed


def test_a_missing_world_is_named_with_near_ones(saved):
    with pytest.raises(WorldNotFoundError, match=r"Did you mean .*grey\?"):
        World.load(saved.parent / "gray")
    with pytest.raises(FileNotFoundError):
        World.load(saved.parent / "gray")
    with pytest.raises(WorldNotFoundError, match=r"Worlds nearby: .*grey"):
        World.load(saved.parent / "something-else")
    with pytest.raises(WorldNotFoundError):
        World.load(saved.parent / "nowhere" / "at-all")


@pytest.mark.parametrize("name", ["world.json", "model.safetensors"])
def test_a_world_that_lacks_a_file_is_damaged(saved, name):
    (saved / name).unlink()
    with pytest.raises(WorldDamagedError, match=f"{name} is missing"):
        World.load(saved)


def test_a_world_that_lacks_its_starts_is_damaged(saved):
    shutil.rmtree(saved / "starts")
    with pytest.raises(WorldDamagedError, match=r"starts.* is missing"):
        World.load(saved)


def test_a_file_cut_short_or_altered_is_damage(saved):
    for file in [saved / "model.safetensors", *(path for path in (saved / "starts").rglob("*") if path.is_file())]:
        whole = file.read_bytes()
        for damaged in (whole[:-1], whole[:10] + b"\0" + whole[11:], b""):
            if damaged != whole:
                file.write_bytes(damaged)
                with pytest.raises(WorldDamagedError, match="cut short or altered"):
                    World.load(saved)
        file.write_bytes(whole)
    World.load(saved)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"format": 1}', '{"format": 1, "files": {}, "backbone": {}, "spec": {}}']
)
def test_a_description_that_cannot_be_read_is_damage(saved, text):
    (saved / "world.json").write_text(text)
    with pytest.raises(WorldDamagedError, match=r"world.json is damaged.* Copy the world again, whole."):
        World.load(saved)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("provenance", {"frame_skip": 5}),
        ("provenance", {"max_episode_steps": 5}),
        ("spec", {"frame_rate": 1.0}),
        ("backbone", {"noise": 0.5}),
        ("metrics", {"psnr_1": 99.0}),
    ],
)
def test_a_description_that_was_edited_is_refused(saved, part, change):
    file = saved / "world.json"
    description = json.loads(file.read_text())
    assert change.keys() <= description[part].keys()
    file.write_text(json.dumps({**description, part: {**description[part], **change}}, indent=1))
    with pytest.raises(WorldDamagedError, match=r"world.json is damaged or was altered"):
        World.load(saved)
    file.write_text(json.dumps(description))  # only laid out in another way
    World.load(saved)


def test_a_description_that_does_not_fit_the_model_is_damage(saved):
    rewrite(saved, spec={"frame_shape": [3, 16]})
    with pytest.raises(WorldDamagedError, match="spec"):
        World.load(saved)


def test_a_description_cannot_reach_outside_the_world(saved):
    (saved.parent / "secret").write_text("x")
    files = json.loads((saved / "world.json").read_text())["files"]
    rewrite(saved, files={**files, "../secret": {"sha256": "0"}})
    with pytest.raises(WorldDamagedError, match="outside the world"):
        World.load(saved)


def test_a_world_of_a_newer_version_is_refused_before_it_is_read(saved):
    rewrite(saved, format=2, files="in another layout")
    with pytest.raises(WorldVersionError, match=r"format 2.*reads up to 1.*pip install -U dreamenv"):
        World.load(saved)


def test_a_world_from_before_parts_is_refused_with_a_remedy(saved):
    before = json.loads((saved / "world.json").read_text())
    for backbone in ({"backbone": "denoising", "network": "dit"}, {"backbone": "rssm", "memory": 512}):
        rewrite(saved, backbone=backbone)
        with pytest.raises(WorldVersionError, match=rf"dreamenv {before['dreamenv']}.*Train it again.*import"):
            World.load(saved)


def test_a_world_of_version_0_1_is_refused_for_that_although_it_has_no_checksum(saved):
    values = json.loads((saved / "world.json").read_text())
    del values["checksum"]
    values |= {"dreamenv": "0.1.0", "backbone": {"backbone": "rssm", "memory": 512}}
    (saved / "world.json").write_text(json.dumps(values))
    with pytest.raises(WorldVersionError, match=r"made by dreamenv 0.1.0.*Train it again.*import"):
        World.load(saved)


def test_a_part_that_is_no_backbone_is_no_world(saved):
    rewrite(saved, backbone={"kind": "rssm_training"})
    with pytest.raises(WorldVersionError, match="'rssm_training' is no backbone"):
        World.load(saved)


@pytest.mark.parametrize("backbone", [{"kind": "driftin"}, {"kind": "drifting", "sparkle": 1}])
def test_a_backbone_this_version_does_not_have_is_named(saved, backbone):
    rewrite(saved, backbone=backbone)
    with pytest.raises(WorldVersionError, match=r"driftin|sparkle"):
        World.load(saved)


def test_a_device_that_is_not_there_is_refused(saved):
    with pytest.raises(DeviceError, match="cuda:77"):
        World.load(saved, device="cuda:77")
    with pytest.raises(DeviceError):
        World.load(saved).to("cuda:77")


def test_a_world_refuses_environments_set_up_otherwise(saved):
    world = World.load(saved)
    world.provenance.check_matches(make_provenance())
    with pytest.raises(WorldMismatchError, match="frame_skip"):
        world.provenance.check_matches(make_provenance(frame_skip=2))


def test_shipped_worlds_are_found_by_name(saved, tmp_path, monkeypatch):
    shutil.copytree(saved, tmp_path / "worlds" / "take_cover")
    monkeypatch.setattr("dreamenv.shipped._shipped_folder", lambda: tmp_path / "worlds")
    monkeypatch.chdir(tmp_path / "worlds")
    monkeypatch.chdir(tmp_path)
    assert list(shipped_worlds()) == ["take_cover"]
    expected = World.load(saved).content_hash()
    assert World.default().content_hash() == World.load("take_cover").content_hash() == expected
    assert DreamVectorEnv().world.content_hash() == expected
    with pytest.raises(WorldNotFoundError, match=r"Did you mean take_cover\?"):
        World.load("takecover")


def test_a_repr_describes_the_world(saved):
    text = repr(World.load(saved))
    assert "Drifting of Toy-v0" in text
    assert "(3, 16, 16)" in text
    assert "20 starts" in text
