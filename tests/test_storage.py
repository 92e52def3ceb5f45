"""What is written is whole on the disk or absent, and what is read back is what was written, or refused."""

from __future__ import annotations

import ast
import errno
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dreamenv import storage
from dreamenv.errors import (
    CheckpointDamagedError,
    CheckpointError,
    DatasetError,
    StateError,
    StorageError,
    WorldNotFoundError,
)
from dreamenv.storage import drafts

FORMAT = storage.FolderFormat(
    kind="thing",
    manifest="thing.json",
    version=2,
    missing=WorldNotFoundError,
    damaged=CheckpointDamagedError,
    newer=CheckpointError,
    remedy="Copy it again.",
    unchecked=frozenset({"notes.txt"}),
)


def fill(folder: Path, content: bytes = b"first") -> dict[str, object]:
    (folder / "inner").mkdir()
    (folder / "inner" / "a.bin").write_bytes(content)
    (folder / "notes.txt").write_text("notes")
    return {"shape": (1, 2), "names": {1: "one"}, "rate": 1e-5}


def flips(content: bytes, every: int = 1):
    """The content with one bit of one byte turned round."""
    for place in range(0, len(content), every):
        yield content[:place] + bytes((content[place] ^ 1,)) + content[place + 1 :]


def full(*_, **__):
    raise OSError(28, os.strerror(28))


def test_a_folder_comes_back_as_it_was_written(tmp_path):
    FORMAT.write(tmp_path / "new" / "x", fill)
    values = FORMAT.read(tmp_path / "new" / "x")
    assert values["format"] == 2
    assert (values["shape"], values["names"], values["rate"]) == ([1, 2], {"1": "one"}, 1e-5)
    assert list(values["files"]) == ["inner/a.bin"]
    assert "checksum" not in values
    (tmp_path / "new" / "x" / "notes.txt").write_text("mine")
    assert FORMAT.read(tmp_path / "new" / "x") == values


def test_every_flipped_byte_and_every_cut_of_a_folder_is_refused(tmp_path):
    FORMAT.write(tmp_path / "x", fill)
    for name in ("thing.json", "inner/a.bin"):
        file = tmp_path / "x" / name
        whole = file.read_bytes()
        for damaged in (*flips(whole), whole[: len(whole) // 2], b""):
            file.write_bytes(damaged)
            with pytest.raises(CheckpointDamagedError, match=f"{file} is damaged.* Copy it again"):
                FORMAT.read(tmp_path / "x")
        file.write_bytes(whole)
    (tmp_path / "x" / "inner" / "a.bin").unlink()
    with pytest.raises(CheckpointDamagedError, match=r"a.bin is missing"):
        FORMAT.read(tmp_path / "x")
    with pytest.raises(WorldNotFoundError, match="there is no thing at"):
        FORMAT.read(tmp_path)


def test_a_newer_format_is_distinguished_from_damage(tmp_path):
    FORMAT.write(tmp_path / "x", fill)
    file = tmp_path / "x" / "thing.json"
    values = json.loads(file.read_text())
    storage.write_json(file, storage.seal({**values, "format": 3, "files": "in another layout"}))
    with pytest.raises(CheckpointError, match=r"format 3.*up to 2.*pip install -U dreamenv") as raised:
        FORMAT.read(tmp_path / "x")
    assert not isinstance(raised.value, CheckpointDamagedError)
    file.write_text(json.dumps({**values, "format": 3}))
    with pytest.raises(CheckpointDamagedError, match="altered"):
        FORMAT.read(tmp_path / "x")


@pytest.mark.parametrize("where", ["os.fsync", "pathlib.Path.rename", "pathlib.Path.write_text", "pathlib.Path.mkdir"])
def test_a_full_disk_leaves_the_folder_that_was_there(tmp_path, monkeypatch, where):
    FORMAT.write(tmp_path / "x", fill)
    before = FORMAT.read(tmp_path / "x")
    with monkeypatch.context() as patch:
        patch.setattr(where, full)
        with pytest.raises(StorageError, match=r"could not write the thing .*No space left.*Free some space") as raised:
            FORMAT.write(tmp_path / "x", lambda folder: fill(folder, b"second"))
    assert raised.value.errno == 28
    assert FORMAT.read(tmp_path / "x") == before
    assert os.listdir(tmp_path) == ["x"]
    FORMAT.write(tmp_path / "x", lambda folder: fill(folder, b"second"))
    assert FORMAT.read(tmp_path / "x") != before
    assert os.listdir(tmp_path) == ["x"]


def test_an_exchange_that_fails_halfway_is_taken_back(tmp_path, monkeypatch):
    """Where the file system cannot exchange two folders in one step."""
    FORMAT.write(tmp_path / "x", fill)
    before, rename = FORMAT.read(tmp_path / "x"), Path.rename

    def refuse(self, target):
        return full() if self.name == ".x.part" and (tmp_path / ".x.old").exists() else rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(drafts, "_exchange", lambda *_: False)
        patch.setattr(Path, "rename", refuse)
        with pytest.raises(StorageError):
            FORMAT.write(tmp_path / "x", fill)
    assert FORMAT.read(tmp_path / "x") == before
    assert os.listdir(tmp_path) == ["x"]


def dies_at(step: int, action) -> bool:
    """Run an action in a process that is gone before its ``step``-th step on the disk; False if there are fewer."""
    child = os.fork()
    if child == 0:
        steps = itertools.count(1)

        def die(event, _):
            if (event.startswith(("os.", "shutil.")) or event == "open") and next(steps) == step:
                os._exit(9)

        exchange = drafts._exchange_call()

        def exchange_and_tell(first, second):
            sys.audit("os.exchange")
            done = exchange(first, second)
            sys.audit("os.exchanged")
            return done

        drafts._exchange_call = lambda: exchange_and_tell
        sys.addaudithook(die)
        try:
            action()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.skipif(not hasattr(os, "fork"), reason="deaths are simulated in forked processes")
@pytest.mark.parametrize("exchange", [True, False])
def test_a_death_at_any_step_of_a_save_leaves_a_whole_folder_and_the_next_save_sweeps(tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(drafts, "_exchange", lambda *_: False)
    FORMAT.write(tmp_path / "x", fill)
    first = FORMAT.read(tmp_path / "x")
    FORMAT.write(tmp_path / "x", lambda folder: fill(folder, b"second"))
    second = FORMAT.read(tmp_path / "x")
    for step in itertools.count(1):
        FORMAT.write(tmp_path / "x", fill)
        died = dies_at(step, lambda: FORMAT.write(tmp_path / "x", lambda folder: fill(folder, b"second")))
        assert FORMAT.read(tmp_path / "x") in (first, second)
        FORMAT.write(tmp_path / "x", fill)
        assert FORMAT.read(tmp_path / "x") == first
        assert os.listdir(tmp_path) == ["x"]
        if not died:
            break
    assert step > 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="deaths are simulated in forked processes")
def test_a_death_at_any_step_leaves_a_whole_file_and_the_next_write_sweeps(tmp_path):
    path = tmp_path / "x.json"
    for step in itertools.count(1):
        storage.write_json(path, [1])
        died = dies_at(step, lambda: storage.write_json(path, [2]))
        assert json.loads(path.read_text()) in ([1], [2])
        storage.write_json(path, [3])
        assert os.listdir(tmp_path) == ["x.json"]
        if not died:
            break
    assert step > 5


def test_two_who_write_to_the_same_place_have_a_draft_each(tmp_path):
    with storage.atomic_file(tmp_path / "x.txt") as first, storage.atomic_file(tmp_path / "x.txt") as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "x.txt").read_text() == "first"  # which was finished last
    assert os.listdir(tmp_path) == ["x.txt"]


def test_saving_through_a_link_replaces_what_it_points_to(tmp_path):
    FORMAT.write(tmp_path / "disk" / "x", fill)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "x")
    FORMAT.write(tmp_path / "link", lambda folder: fill(folder, b"second"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "x" / "inner" / "a.bin").read_bytes() == b"second"
    assert os.listdir(tmp_path / "disk") == ["x"]


@pytest.mark.parametrize("name", ["zero\0byte", "x" * 300, "loop/x", "file/x", ".", "/"])
def test_a_path_that_cannot_be_written_is_refused_in_one_line(tmp_path, name):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").write_text("")
    path = tmp_path / name
    with pytest.raises(StorageError, match="could not"):
        storage.write_json(path, [])
    if name not in (".", "/"):
        with pytest.raises(StorageError, match="could not"):
            FORMAT.write(path, fill)
    with pytest.raises((CheckpointDamagedError, WorldNotFoundError)):
        FORMAT.read(path)


def test_something_of_another_kind_is_left_alone(tmp_path):
    (tmp_path / "diary.txt").write_text("dear diary")
    for path in (tmp_path, tmp_path / "diary.txt"):
        with pytest.raises(StorageError, match="is no thing; it was left alone"):
            FORMAT.write(path, fill)
    assert (tmp_path / "diary.txt").read_text() == "dear diary"


@pytest.mark.parametrize("where", ["os.fsync", "pathlib.Path.replace", "pathlib.Path.write_bytes"])
def test_a_full_disk_leaves_the_file_that_was_there(tmp_path, monkeypatch, where):
    storage.write_json(tmp_path / "a" / "x.json", {"n": 1})
    with monkeypatch.context() as patch:
        patch.setattr(where, full)
        with pytest.raises(StorageError, match=r"could not write the file .*x.json: No space left"):
            storage.write_json(tmp_path / "a" / "x.json", {"n": 2})
    assert json.loads((tmp_path / "a" / "x.json").read_text()) == {"n": 1}
    assert os.listdir(tmp_path / "a") == ["x.json"]


def interrupt(path):
    path.write_text("half")
    raise KeyboardInterrupt


def test_a_draft_is_gone_whatever_went_wrong(tmp_path):
    with pytest.raises(KeyboardInterrupt), storage.atomic_file(tmp_path / "x.mp4") as draft:
        interrupt(draft)
    assert draft.suffix == ".mp4"  # by which some writers know what to write
    for kind in (storage.atomic_folder, storage.draft_folder):
        with pytest.raises(KeyboardInterrupt), kind(tmp_path / "x") as draft:
            interrupt(draft / "a")
    assert os.listdir(tmp_path) == []


def test_a_file_missing_while_writing_is_no_disk_error():
    with pytest.raises(WorldNotFoundError, match="no world"), storage.storage_errors("write"):
        raise WorldNotFoundError("no world")


def test_a_full_disk_reported_by_safetensors_is_recognised(tmp_path):
    """The system itself refuses here: a limit on the size of files stands for the end of the disk."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        with pytest.raises(StorageError, match="could not write the weights") as raised:  # noqa: SIM117
            with storage.atomic_file(tmp_path / "x.safetensors", "the weights") as draft:
                storage.write_tensors(draft, {"a": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert raised.value.errno == errno.EFBIG
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "why"),
    [("", "damaged"), ("{", "damaged"), ("[1]", "it holds list, not dict"), ("[" * 100_000, "damaged"), (None, "miss")],
)
def test_json_that_cannot_be_read_is_named_with_the_remedy(tmp_path, text, why):
    if text is not None:
        (tmp_path / "x.json").write_text(text)
    with pytest.raises(DatasetError, match=f"x.json is .*{why}.* Restore it") as raised:
        storage.read_json(tmp_path / "x.json", DatasetError, "Restore it.")
    assert str(tmp_path) in str(raised.value)


def test_tensors_that_share_memory_or_lie_otherwise_are_written_as_they_are(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {"a": base, "b": base[1], "c": base.T, "d": torch.zeros(0)}
    storage.write_tensors(tmp_path / "x.safetensors", tensors)
    found = storage.read_tensors(tmp_path / "x.safetensors", DatasetError, "")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], value) for name, value in tensors.items())


def test_every_flipped_byte_and_every_cut_of_sealed_tensors_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    tensors = {"a": torch.arange(6.0), "b": torch.arange(3, dtype=torch.uint8)}
    storage.write_sealed_tensors(path, tensors)
    found = storage.read_sealed_tensors(path, StateError, "Save it again.")
    assert all(torch.equal(found[name], value) for name, value in tensors.items())
    whole = path.read_bytes()
    for damaged in (*flips(whole), whole[:-1], whole[:9], b"", whole + b"\0"):
        path.write_bytes(damaged)
        with pytest.raises(StateError, match=r"x.safetensors is damaged.* Save it again"):
            storage.read_sealed_tensors(path, StateError, "Save it again.")


HOLD = """
import sys
from pathlib import Path
from dreamenv.storage import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    input()
"""


def test_a_lock_keeps_another_process_out_and_ends_with_its_own(tmp_path):
    lock = tmp_path / ".lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(DatasetError, match="wait for it"), storage.locked(lock, DatasetError("wait for it")):
            pass
        process.kill()
    with storage.locked(lock, DatasetError("wait for it")):
        pass
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StorageError, match="could not lock"), storage.locked(tmp_path / "file" / ".lock"):
        pass


ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = [
    path
    for folder in ("dreamenv", "agents", "envs", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path.parent != ROOT / "dreamenv" / "storage"
]


@pytest.mark.parametrize("path", ELSEWHERE, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_storage_moves_flushes_locks_or_hashes_files(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        name, call = node.func.attr, ast.unparse(node)
        moves = name in {"rename", "renames", "replace"} and len(node.args) == 1 and not node.keywords
        flushes = name in {"fsync", "fdatasync", "flock", "lockf", "file_digest", "save_file"}
        forbidden = moves or flushes
        assert not forbidden, f"{path}:{node.lineno} does what dreamenv.storage is for: {call}"


def test_tensors_can_be_read_by_whom_other_files_can(tmp_path: Path) -> None:
    (tmp_path / "ordinary").write_text("")
    storage.write_tensors(tmp_path / "a.safetensors", {"x": torch.zeros(2)})
    storage.write_sealed_tensors(tmp_path / "b.safetensors", {"x": torch.zeros(2)})
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1
