"""Videos are written whole, and read back as they were."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from dreamenv.errors import (
    FrameError,
    StorageError,
)
from dreamenv.training import video


def test_a_video_is_read_back_as_it_was_written(tmp_path):
    frames = np.zeros((12, 17, 16, 3), np.uint8)
    frames[6:] = 200
    path = video.write_mp4(tmp_path / "video.mp4", frames, 8.75, scale=3)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert float(stream.average_rate) == 8.75
    assert len(decoded) == 12
    assert decoded[0].shape == (52, 48, 3)  # 17 * 3 = 51 is made even
    assert decoded[0].mean() < 10
    assert 190 < decoded[-1].mean() < 210


def test_videos_of_nothing_or_onto_a_full_disk_are_refused(tmp_path, monkeypatch):
    with pytest.raises(FrameError, match="at least one"):
        video.write_mp4(tmp_path / "video.mp4", np.zeros((0, 16, 16, 3), np.uint8), 10)

    def refuse(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(StorageError):
        video.write_mp4(tmp_path / "video.mp4", np.zeros((2, 16, 16, 3), np.uint8), 10)
    assert list(tmp_path.iterdir()) == []


def test_reality_and_dream_are_shown_side_by_side():
    real, dream = np.full((2, 5, 4, 6, 3), 10, np.uint8), np.full((2, 5, 4, 6, 3), 90, np.uint8)
    both = video.side_by_side(real, dream)
    assert both.shape == (5, 4 * 2 + 2, 6 * 2 + 2, 3)
    assert (both[:, :4, :6] == 10).all()
    assert (both[:, -4:, -6:] == 90).all()
    picture = video.strip((real[0], dream[0]), (0, 2, 4), scale=2)
    assert picture.shape == ((4 * 2 + 2) * 2, (6 * 3 + 4) * 2, 3)
    with pytest.raises(FrameError):
        video.side_by_side(real, dream[:, :3])
