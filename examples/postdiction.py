"""Look back: an object goes behind a screen, and what it did there is known only when it comes out.

Records `dreamenv.benchmarks.occluder.Occluder`, trains a small world that revises what it remembers, and plays an
episode of which the frames behind the screen are blanked. Then, all of the same episode: reality, what was remembered
when the object came out, and what is remembered in hindsight. Two minutes of a core; run it from the repository:

    python examples/postdiction.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image

from dreamenv import make_real
from dreamenv.backbones.rssm import BackwardConfig, RevisingRSSMConfig, RSSMConfig, RSSMStage
from dreamenv.benchmarks.occluder import APPROACH, HIDDEN, Occluder
from dreamenv.data import RandomPolicy, collect
from dreamenv.frames import frames_to_model, frames_to_numpy
from dreamenv.training import TrainConfig, train
from dreamenv.training.video import strip


def main(out: Path = Path("runs/postdiction_example"), steps: int = 12_000, training_steps: int = 500) -> None:
    """Record, train, hide, look back; the picture is ``out / "hindsight.png"``."""

    def make_env():
        return make_real(Occluder, size=32)

    data = collect(make_env, lambda: RandomPolicy(make_env().action_space), out / "data", steps=steps, num_workers=0)
    small = RSSMConfig(deter=128, stoch=24, classes=16, hidden=128, channels=(16, 32, 64))
    stage = RSSMStage(steps=training_steps, batch_size=16, sequence_length=24, learning_rate=1e-3)
    config = RevisingRSSMConfig.of(small, BackwardConfig(steps=12, training=stage))
    plan = TrainConfig(steps={"joint": training_steps, "dynamics": training_steps})
    model = train(plan, config, data, out / "world").model.eval()

    episode, now = data[0], APPROACH + HIDDEN  # the step at which the object is seen again
    frames, actions = frames_to_model(episode.frames)[None], torch.from_numpy(episode.actions)[None]  # 1 t c h w, 1 t
    with torch.inference_mode():
        state = model.start(frames[:, 0], torch.tensor([0]))
        state = model.observe(state, actions[:, :APPROACH], frames[:, 1 : APPROACH + 1])
        _, state = model.imagine(state, actions[:, APPROACH : now - 1])  # a frame that is missing is imagined
        state = model.observe(state, actions[:, now - 1 : now], frames[:, now : now + 1])
        revised = model.revise(state, frames[:, now : now + 1], torch.ones(1, 1, dtype=torch.bool))
        remembered = [frames_to_numpy(model.recall(one)[0]) for one in (state, revised)]
    real = episode.frames[now - model.revision_steps + 1 : now + 1]
    for name, shown in zip(("filtered", "revised"), remembered, strict=True):
        hidden = (shown.astype(float) - real)[-HIDDEN:-1]
        print(f"{name}: {np.square(hidden / 255).mean():.5f} squared error of the hidden frames")
    Image.fromarray(strip([real, *remembered], range(len(real)), scale=3)).save(out / "hindsight.png")


if __name__ == "__main__":
    tyro.cli(main)
