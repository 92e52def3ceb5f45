"""Two trainings in one folder would overwrite each other: the second is refused, until the first has ended."""

from __future__ import annotations

import subprocess
import sys

import pytest
from drifting import make_world
from test_agents_training import SMALL
from test_training_resumes import settings
from toy import toy_dataset
from trainable import TrainableConfig

from dreamenv.agents import train_agent
from dreamenv.errors import FolderInUseError
from dreamenv.locks import locked_run
from dreamenv.training import train

HOLD = """
import sys
from pathlib import Path
from dreamenv.locks import locked_run
with locked_run(Path(sys.argv[1])):
    print("held", flush=True)
    input()
"""


@pytest.mark.parametrize("kind", ["train", "agent"])
def test_a_second_training_in_a_folder_is_refused_and_leaves_the_first_alone(tmp_path, kind):
    run = tmp_path / "run"

    def start() -> None:
        if kind == "train":
            train(settings(), TrainableConfig(), toy_dataset(tmp_path / "d", 6), run)
        else:
            train_agent(SMALL, out=run, world=make_world(), progress=False)

    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(FolderInUseError, match=r"trains in .*run; wait for it, or choose another folder"):
            start()
        assert [path.name for path in run.iterdir()] == [".lock"]
        process.kill()


def test_trainings_in_one_process_keep_each_other_out_too(tmp_path):
    with locked_run(tmp_path / "a"), locked_run(tmp_path / "b"):
        with pytest.raises(FolderInUseError), locked_run(tmp_path / "a"):
            pass
        with pytest.raises(FolderInUseError):
            train_agent(SMALL, out=tmp_path / "b", world=make_world(), progress=False)
    train_agent(SMALL, out=tmp_path / "b", world=make_world(), progress=False)
