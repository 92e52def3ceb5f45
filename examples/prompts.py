"""A prompt, which changes rarely, next to the action of every frame: the panorama, from recording to dream.

    python examples/prompts.py

Records a camera that pans over coloured objects under captions, trains a small world on it in a minute and a half of
processor time, and dreams four rows at once: a prompt alone, the same prompt against an action, another prompt against
that action, and no prompt. It writes into runs/prompts; look at dreams.png.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tyro
from PIL import Image

from dreamenv import DreamVectorEnv
from dreamenv.backbones.rssm import PromptConfig, RSSMConfig, RSSMStage, RSSMTraining
from dreamenv.benchmarks.panorama import ACTIONS, record_panorama
from dreamenv.data import EpisodeDataset
from dreamenv.training import TrainConfig, train

ROWS = (
    ("camera pans left, red objects", "noop"),
    ("camera pans left, red objects", "right"),
    ("camera pans left, blue objects", "right"),
    (None, "right"),
)


def main(
    out: Path = Path("runs/prompts"), *, episodes: int = 400, joint_steps: int = 1200, dynamics_steps: int = 800
) -> None:
    """Record, train, dream."""
    data = out / "recording"
    recording = EpisodeDataset.open(data) if data.exists() else record_panorama(data, episodes)
    print(f"{recording}, such as {sorted(set(recording[0].captions or ()))}")
    joint = RSSMStage(steps=joint_steps, batch_size=8, sequence_length=8, learning_rate=1e-3)
    dynamics = RSSMStage(steps=dynamics_steps, batch_size=32, sequence_length=16, learning_rate=1e-3)
    training = RSSMTraining(joint=joint, dynamics=dynamics, dropout=0.05)
    config = RSSMConfig(deter=256, hidden=256, channels=(16, 32, 48), prompt=PromptConfig(), training=training)
    world = train(TrainConfig(num_threads=1), config, recording, out / "world")

    env = DreamVectorEnv(world, len(ROWS))
    actions = np.array([ACTIONS.index(action) for _, action in ROWS])
    frames = [env.reset(seed=0, options={"start": 0, "prompt": [prompt for prompt, _ in ROWS]})[0]]
    frames += [env.step(actions)[0] for _ in range(7)]
    env.prompt("camera pans right, green objects", rows=0)  # from the next step on, what is remembered stays
    frames += [env.step(actions)[0] for _ in range(4)]
    sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in np.stack(frames, axis=1)])
    Image.fromarray(sheet.repeat(5, axis=0).repeat(5, axis=1)).save(out / "dreams.png")
    print(f"wrote {out / 'dreams.png'}")


if __name__ == "__main__":
    tyro.cli(main)
