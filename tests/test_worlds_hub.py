"""Worlds are read from and pushed to the Hugging Face Hub."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from drifting import make_world

from dreamenv.errors import (
    WorldNotFoundError,
)
from dreamenv.world import World


@pytest.fixture
def saved(tmp_path) -> Path:
    world = make_world(noise=0.03)
    world.record = {"steps": 12, "command": "dreamenv train"}
    world.metrics = {"psnr_1": 31.5}
    return world.save(tmp_path / "grey")


def test_worlds_of_the_hub_are_read_through_its_cache(saved, tmp_path, monkeypatch):
    """As huggingface_hub lays a download out: snapshots by commit, found through refs, files as links to blobs."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    cache = tmp_path / "hub" / "models--someone--grey"
    shutil.copytree(saved, cache / "snapshots" / commit)
    for number, path in enumerate(path for path in (cache / "snapshots").rglob("*") if path.is_file()):
        blob = cache / "blobs" / str(number)
        blob.parent.mkdir(exist_ok=True)
        path.rename(blob)
        path.symlink_to(blob)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    expected = World.load(saved).content_hash()
    for address in ("hf://someone/grey", "hf://someone/grey@main", f"hf://someone/grey@{commit}"):
        assert World.load(address).content_hash() == expected
    with pytest.raises(WorldNotFoundError, match="hf://someone/else"):
        World.load("hf://someone/else")
    with pytest.raises(WorldNotFoundError, match="hf://not a name"):
        World.load("hf://not a name")


def test_pushing_to_the_hub_uploads_the_folder(saved, tmp_path, monkeypatch):
    uploaded = tmp_path / "uploaded"
    calls = []

    class Hub:
        def create_repo(self, repo_id, *, private, exist_ok):
            calls.append((repo_id, private, exist_ok))

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            shutil.copytree(folder_path, uploaded)
            return f"https://hub/{repo_id}"

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    world = World.load(saved)
    assert world.push_to_hub("someone/grey", private=True) == "https://hub/someone/grey"
    assert calls == [("someone/grey", True, True)]
    assert World.load(uploaded).content_hash() == world.content_hash()
    assert "# grey" in (uploaded / "README.md").read_text()
