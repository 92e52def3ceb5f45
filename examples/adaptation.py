"""A world that learns while it is used: in a small grid world up turns into down and left into right.

Records the grid world and trains a small world on it. Then random actions play the changed one, while the world learns
from it and rehearses what it knew. It takes three minutes on one core: python examples/adaptation.py
"""

from functools import partial
from pathlib import Path

import numpy as np
import tyro
from own_environment import CELL, CELLS, GridWorld

from dreamenv import World, make_real
from dreamenv.backbones.rssm.presets import tiny
from dreamenv.data import EpisodeDataset, FrameStore, RandomPolicy, collect
from dreamenv.metrics.fidelity import dream_fidelity
from dreamenv.training import OnlineConfig, OnlineWorld, TrainConfig, train


class Turned(GridWorld):
    """The grid world in which every move goes the opposite way."""

    def step(self, action: np.int64) -> tuple:
        """Move the other way."""
        return super().step(np.int64((1, 0, 3, 2)[int(action)]))


def main(
    out: Path = Path("runs/adaptation"), steps: int = 8000, train_steps: int = 500, real_steps: int = 2000
) -> None:
    """Train a world on ``steps`` recorded steps, then let it learn from ``real_steps`` of the changed environment."""
    home, turned = (partial(make_real, kind, size=CELLS * CELL) for kind in (GridWorld, Turned))
    policy = partial(RandomPolicy, home().action_space)
    known = collect(home, policy, out / "known", steps=steps, num_workers=0)
    changed = collect(turned, policy, out / "changed", steps=1000, num_workers=0)
    world = train(TrainConfig(steps={"joint": train_steps, "dynamics": train_steps}), tiny(), known, out / "run")
    print(f"before: {psnr(world, known):.2f} dB at home, {psnr(world, changed):.2f} where moves are turned")

    env, online = turned(), OnlineWorld(world, OnlineConfig(every=8))
    online.reset(env.reset(seed=1_000_000)[0])
    for _ in range(real_steps):
        action = env.action_space.sample()  # or a policy's
        frame, reward, terminated, truncated, _ = env.step(action)
        online.step(action, frame, float(reward), terminated, truncated)
        if terminated or truncated:
            online.reset(env.reset()[0])
    (adapted := online.world).save(out / "adapted")
    print(f"after {online.real_steps} real and {online.gradient_steps} gradient steps: ", end="")
    print(f"{psnr(adapted, known):.2f} dB at home, {psnr(adapted, changed):.2f} where moves are turned")


def psnr(world: World, recording: EpisodeDataset) -> float:
    """Return the fidelity of dreams five steps ahead."""
    report = dream_fidelity(world.model, FrameStore(recording), horizons=(5,), context=3)
    return float(report["horizons"]["5"]["psnr"]["mean"])


if __name__ == "__main__":
    tyro.cli(main)
