"""Whatever lies on the disk damaged, altered or hostile is refused with a typed error, cheaply, never in silence."""

from __future__ import annotations

import io
import itertools
import json
import resource
import shutil
import signal
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from drifting import make_world
from test_evaluation import make_policy
from toy import toy_dataset

from dreamenv.agents import SavedPolicy
from dreamenv.cli import main
from dreamenv.data import EpisodeDataset
from dreamenv.dream import DreamVectorEnv, load_state, save_state
from dreamenv.errors import DreamenvError, WorldDamagedError
from dreamenv.storage import file_digest, seal
from dreamenv.training.checkpoint import Checkpoint, Checkpoints
from dreamenv.world import World


def make_state(path: Path) -> Path:
    env = DreamVectorEnv(make_world(noise=0.03), 2)
    env.reset(seed=1)
    save_state(env.get_state(), path / "state.safetensors")
    return path


def make_checkpoint(path: Path) -> Path:
    tensors = {"model": {"weight": torch.randn(40)}, "optimizer": {"moment": torch.randn(40)}}
    return Checkpoints(path).save(Checkpoint(step=5, tensors=tensors, state={"stage": 1, "seconds": 0.5}))


KINDS = {
    "world": (lambda path: make_world(noise=0.03).save(path / "w"), World.load),
    "policy": (lambda path: make_policy().save(path / "p"), SavedPolicy.load),
    "checkpoint": (make_checkpoint, lambda path: Checkpoints(path.parent).latest()),
    "state": (make_state, lambda path: load_state(path / "state.safetensors")),
    "dataset": (lambda path: toy_dataset(path / "d", 2).path, lambda path: list(EpisodeDataset.open(path))),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_refused_or_changes_nothing(tmp_path, kind):
    make, read = KINDS[kind]
    folder = make(tmp_path)
    read(folder)
    random, refused = np.random.default_rng(0), 0
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file.name != "README.md"]
    for file, damage in itertools.product(files, ("flip", "flip", "flip", "cut", "append", "empty", "delete")):
        whole = file.read_bytes()
        place = int(random.integers(len(whole)))
        if damage == "delete":
            file.unlink()
        else:
            flipped = whole[:place] + bytes((whole[place] ^ 1 << int(random.integers(8)),)) + whole[place + 1 :]
            file.write_bytes({"flip": flipped, "cut": whole[:place], "append": whole + b"0", "empty": b""}[damage])
        try:
            read(folder)
        except DreamenvError:
            refused += 1
        else:
            # What Arrow pads with, or Minari's own fields, which we do not read: all that we read is as it was.
            assert kind == "dataset", (file, damage, place)
        file.write_bytes(whole)
    assert refused >= 5 * len(files)
    read(folder)


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    return make_world(noise=0.03).save(tmp_path_factory.mktemp("template") / "w")


def resealed(folder: Path, **changes) -> None:
    """Describe a folder again, as a stranger would who knows how."""
    values = {**json.loads((folder / "world.json").read_text()), **changes}
    values["files"] = {
        file.relative_to(folder).as_posix(): {"bytes": file.stat().st_size, "sha256": file_digest(file)}
        for file in folder.rglob("*")
        if file.is_file() and file.name not in ("world.json", "README.md")
    }
    (folder / "world.json").write_text(json.dumps(seal(values)))


def bomb(folder: Path) -> None:
    """Starts of 4 GB of zeros in some kB."""
    header = io.BytesIO()
    shape = (1000, 1366, 32, 32, 3)
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    zeros = bytes(2**24)
    with pa.CompressedOutputStream(pa.OSFile(str(folder / "starts" / "frames.npy.zst"), "wb"), "zstd") as stream:
        stream.write(header.getvalue())
        for _ in range(20):
            stream.write(zeros)
    resealed(folder)


def squeezed(folder: Path) -> None:
    np.savez_compressed(folder / "starts" / "segments.npz", actions=np.zeros(10**7), lengths=[1], at_episode_start=[1])
    resealed(folder)


def promised(folder: Path) -> None:
    """Weights whose header promises more than the file holds."""
    header = json.dumps({"scale": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    resealed(folder)


def looping(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("model.safetensors")


def fifo(folder: Path) -> None:
    (folder / "world.json").unlink()
    (folder / "world.json").symlink_to("/dev/zero")


def spec(**changes):
    def change(folder: Path) -> None:
        resealed(folder, spec={**json.loads((folder / "world.json").read_text())["spec"], **changes})

    return change


def backbone(**values):
    return lambda folder: resealed(folder, backbone=values)


def text(content: str | bytes):
    written = content if isinstance(content, bytes) else content.encode()
    return lambda folder: (folder / "world.json").write_bytes(written)


def listing(files):
    """Name other files, and seal that."""

    def change(folder: Path) -> None:
        values = json.loads((folder / "world.json").read_text())
        (folder / "world.json").write_text(json.dumps(seal({**values, "files": files})))

    return change


def box(dtype: str, shape: list[int], low, high):
    return spec(action_space={"type": "Box", "dtype": dtype, "shape": shape, "low": low, "high": high})


def nested(depth: int):
    space = {"type": "Discrete", "n": 2}
    for _ in range(depth):
        space = {"type": "Dict", "subspaces": {"a": space}}
    return space


HOSTILE = {
    "a bomb of starts": bomb,
    "compressed segments": squeezed,
    "weights that promise": promised,
    "a loop of links": looping,
    "an endless description": fifo,
    "frames of terabytes": spec(frame_shape=[3, 10**6, 10**6]),
    "frames of words": spec(frame_shape=["a", "b", "c"]),
    "a box of any size": box("float32", [10**6, 10**6], 0, 1),
    "a box of objects": box("O", [1], [0], [1]),
    "a list for a space": spec(action_space=[1]),
    "no actions": spec(action_space={"type": "Discrete", "n": -1}),
    "a billion actions": lambda folder: (
        shutil.rmtree(folder),
        World.default().save(folder),
        spec(action_space={"type": "Discrete", "n": 10**9, "start": 0})(folder),
    ),
    "nested spaces": spec(action_space=nested(300)),
    "a rate of words": spec(frame_rate="fast"),
    "a large model": backbone(kind="rssm", deter=10**5, hidden=10**5),
    "a huge model": backbone(kind="rssm", channels=[10**9, 10**9]),
    "a deep model": backbone(kind="rssm", channels=[1] * 10**5),
    "many classes": backbone(kind="rssm", stoch=10**6, classes=10**6),
    "many bins": backbone(kind="rssm", head={"kind": "reward_termination", "bins": 10**12}),
    "many passes": backbone(kind="denoising", sampler={"kind": "euler", "steps": 10**10}),
    "no part": backbone(kind=["rssm"]),
    "nested parts": backbone(**json.loads('{"kind":"rssm","head":' * 200 + "1" + "}" * 200)),
    "a name with a zero byte": listing({"a\0b": {"bytes": 1, "sha256": ""}}),
    "files in a list": listing(["a"]),
    "deep nesting": text("[" * 10**6),
    "a number of a million digits": text('{"format": ' + "9" * 10**6 + "}"),
    "not UTF-8": text(b'{"format": "\xff\xfe"}'),
    "half a character": text('{"format": "\\ud800"}'),
    "provenance of numbers": lambda folder: resealed(folder, provenance=[1, 2]),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_world_is_refused_in_little_time_and_memory(template, tmp_path, name, capsys):
    folder = tmp_path / "w"
    shutil.copytree(template, folder)
    HOSTILE[name](folder)
    before = resource.getrusage(resource.RUSAGE_SELF)
    with pytest.raises(DreamenvError) as raised:
        World.load(folder)
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 2000
    assert after.ru_utime - before.ru_utime < 10
    assert after.ru_maxrss - before.ru_maxrss < 700_000  # KiB
    assert main(["info", str(folder)]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_weights_of_other_shapes_are_named(template, tmp_path):
    folder = tmp_path / "w"
    shutil.copytree(template, folder)
    from safetensors.torch import save_file

    save_file({"scale": torch.zeros(5)}, folder / "model.safetensors")
    resealed(folder)
    with pytest.raises(WorldDamagedError, match=r"scale should be \(2,\), and is \(5,\)"):
        World.load(folder)


@pytest.mark.parametrize("command", ["collect", "train", "agent", "play", "evaluate", "info"])
@pytest.mark.parametrize("refusal", ["full", "in the way"])
def test_a_disk_that_refuses_ends_every_command_with_one_line(template, tmp_path, capsys, command, refusal):
    """The system itself refuses: a limit on the size of files stands for the end of the disk."""
    out = tmp_path / "out"
    if refusal == "in the way":
        out.write_text("a file where a folder should be")
        out = out / "inner"
    data = toy_dataset(tmp_path / "data", 6).path
    few = ["--model.training.joint.steps", "2", "--model.training.dynamics.steps", "2", "--preset", "tiny"]
    arguments = {
        "collect": ["minigrid_door_key", "--out", str(out), "--steps", "50", "--workers", "0"],
        "train": [str(data), "--out", str(out), *few],
        "agent": ["--out", str(out), "--world", str(template), "--total-steps", "64", "--ppo.n-steps", "16"],
        "play": [str(template), "--headless", "--steps", "20", "--out", str(out / "a.mp4")],
        "evaluate": ["random", "--on", str(template), "--episodes", "1", "--out", str(out / "a.json")],
        "info": [str(tmp_path / ("x" * 300))],
    }[command]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        if refusal == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (8, hard))
        status = main([command, *arguments])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert (status, len(errors)) == (2, 1)
