"""A dream that is seen finely where an agent looks: train one, and let the gaze wander from left to right.

    python examples/gaze.py

Records TakeCover under random actions, trains the preset ``denoising/foveated`` on it, and writes a row of dreamt
frames into runs/gaze/gaze.png, with a mark round what was seen in fine tokens. Run it again to resume.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image

from dreamenv import make_real
from dreamenv.backbones.denoising.presets import foveated
from dreamenv.data import RandomPolicy, collect
from dreamenv.dream import DreamEnv, GazeAction
from dreamenv.training import TrainConfig, train
from dreamenv.training.video import strip


def main(task: str = "take_cover", out: Path = Path("runs/gaze"), steps: int = 20_000, updates: int = 2000) -> None:
    """Record, train, and look about."""
    make_env = partial(make_real, task, size=64)
    policy = partial(RandomPolicy, make_env().action_space)
    data = collect(make_env, policy, out / "data", steps=steps, num_workers=1)
    stages = dict.fromkeys(("codec", "denoiser", "head"), updates)
    world = train(TrainConfig(steps=stages), foveated(), data, out / "world")

    env = GazeAction(DreamEnv(world))
    env.reset(seed=0, options={"gaze": (0.5, 0.0)})
    shown = []
    for column in np.linspace(0, 1, 8, dtype=np.float32):
        gaze = np.array([0.5, column], np.float32)
        frame, _, ended, _, _ = env.step({"action": env.action_space["action"].sample(), "gaze": gaze})
        fine = world.model.denoiser.fovea.fine_pixels(torch.from_numpy(gaze), scale=4)  # a latent is 4 pixels wide
        shown.append(np.where(outline(fine.numpy())[..., None], np.uint8(255), frame))
        if ended:
            env.reset()
    Image.fromarray(strip([np.stack(shown)], range(len(shown)), scale=3)).save(out / "gaze.png")
    print("Wrote", out / "gaze.png")


def outline(mask: np.ndarray) -> np.ndarray:
    """Return the pixels of a mask (h, w) whose neighbours are not all in it; at the border of the frame, too."""
    inner = np.pad(mask, 1)
    return mask & ~(inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:])


if __name__ == "__main__":
    tyro.cli(main)
