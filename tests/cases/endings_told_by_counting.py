"""Every step ends the episode with probability 1/100, whatever was seen; a dream's age must not change that."""

import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch

from dreamenv.backbones.rssm.presets import tiny
from dreamenv.data import Episode, EpisodeDataset, Provenance
from dreamenv.training import TrainConfig, train

folder, rng = Path(sys.argv[1]), np.random.default_rng(0)
data = EpisodeDataset.create(
    folder / "d", Provenance(environment_id="luck-v0", frame_size=16), gym.spaces.Discrete(3), (16, 16, 3)
)
for t in rng.geometric(0.01, size=85).tolist():
    data.append(
        Episode(
            frames=np.full((t + 1, 16, 16, 3), 100, np.uint8),
            actions=rng.integers(0, 3, t),
            rewards=np.zeros(t),
            terminated=True,
            truncated=False,
        )
    )
config = TrainConfig(steps={"joint": 100, "dynamics": 300}, num_threads=1, eval_every=0, holdout=0, progress=False)
model = train(config, tiny(), data, folder / "run").model
with torch.no_grad():
    state = model.start(torch.full((64, 3, 16, 16), 100 / 255), torch.arange(64))
    rate = model.imagine(state, torch.randint(0, 3, (64, 80)), decode=False)[0].termination.mean(0)
young, old = float(rate[:10].mean()), float(rate[30:].mean())
print(f"per step: recorded {85 / data.total_steps:.4f}; dreamt {young:.4f} in steps 1-10, {old:.4f} in steps 31-80")
if not 0.67 < old / young < 1.5:
    raise SystemExit(
        f"FAIL: the same situation ends {old / young:.1f} times as often in an old dream as in a young one"
    )
