"""Frames of 4 channels (colour and depth) are refused where they would be recorded, not hours into a training."""

import sys
from pathlib import Path

import gymnasium as gym
import numpy as np

from dreamenv.backbones.rssm.presets import tiny
from dreamenv.data import Episode, EpisodeDataset, Provenance
from dreamenv.errors import DreamenvError
from dreamenv.training import TrainConfig, train

folder, rng, t = Path(sys.argv[1]), np.random.default_rng(0), 30
config = TrainConfig(steps={"joint": 2, "dynamics": 2}, eval_every=0, num_threads=1, progress=False)
try:
    data = EpisodeDataset.create(
        folder / "d",
        Provenance(environment_id="rgbd-v0", frame_size=16),
        gym.spaces.Discrete(3),
        (16, 16, 4),
    )
    for _ in range(4):
        data.append(
            Episode(
                frames=rng.integers(0, 256, (t + 1, 16, 16, 4), dtype=np.uint8),
                actions=rng.integers(0, 3, t),
                rewards=np.zeros(t),
                terminated=True,
                truncated=False,
            )
        )
except DreamenvError as error:
    print("refused:", error)
else:
    train(config, tiny(), data, folder / "run")  # what is taken at the door goes all the way
