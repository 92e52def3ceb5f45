"""``dreamenv play``: control a dream with the keyboard, or write a video of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import tyro

from dreamenv.commands.arguments import parse, report_written
from dreamenv.commands.doctor import has_display
from dreamenv.commands.places import load_world
from dreamenv.commands.script import scripted_actions
from dreamenv.dream.config import DreamConfig
from dreamenv.errors import ConfigError
from dreamenv.folders import check_world

if TYPE_CHECKING:
    from dreamenv.dream import DreamEnv

__all__ = ["Play", "main", "write_video"]


@dataclass(frozen=True, kw_only=True)
class Play:
    """Control a dream with the keyboard in a window; without a display, write a video of a dream under a script.

    Attributes:
        world: folder of a world, or hf://owner/name; None for the one in the package.
        headless: write a video even if there is a display.
        out: the video, an mp4 file.
        actions: of the video: "sticky" (random, mostly keeping the last), "random", or names or numbers with repeats,
            "left*20, noop*5", over and over.
        steps: maximum length of the video, in agent steps.
        seed: of the dream and of random actions, at least 0.
        start: number of the recorded start to dream from; None samples one.
        dream: how to dream.
        scale: screen pixels per pixel of the dream.
        frame_rate: frames per second; None for the world's own.
        device: "cpu" or "cuda".
    """

    world: Annotated[str | None, tyro.conf.Positional] = None
    headless: bool = False
    out: Path = Path("dream.mp4")
    actions: str = "sticky"
    steps: int = 256
    seed: int = 0
    start: int | None = None
    dream: Annotated[DreamConfig, tyro.conf.arg(name="")] = field(default_factory=DreamConfig)
    scale: int = 8
    frame_rate: float | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("steps", "scale"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if self.frame_rate is not None and self.frame_rate <= 0:
            raise ConfigError(f"frame_rate must be positive (hertz), not {self.frame_rate}.")


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    command = parse(Play, arguments, name="play")
    if command.world is not None:
        check_world(command.world)

    from dreamenv.dream import DreamEnv

    world = load_world(command.world, command.device)
    env = DreamEnv(world, config=command.dream)
    names = world.provenance.action_names if world.provenance else ()
    frame_rate = command.frame_rate or world.spec.frame_rate
    if command.headless or not has_display():
        if not command.headless:
            print("There is no display to open a window on: writing a video.")
        report_written(write_video(env, command, names, frame_rate))
    else:
        from dreamenv.commands.window import control

        control(env, names, frame_rate=frame_rate, scale=command.scale, seed=command.seed, start=command.start)
    env.close()


def write_video(env: DreamEnv, command: Play, names: Sequence[str], frame_rate: float) -> Path:
    """Write a video of one dream, to its end or for ``command.steps`` steps."""
    from tqdm import tqdm

    from dreamenv.training.video import write_mp4

    script = scripted_actions(command.actions, env.action_space, names, seed=command.seed)
    options = {} if command.start is None else {"start": command.start}
    frame, _ = env.reset(seed=command.seed, options=options)
    frames, score, end = [frame], 0.0, "goes on"
    for _ in tqdm(range(command.steps), desc="dreaming", unit="step", leave=False):
        frame, reward, terminated, truncated, _ = env.step(next(script))
        frames.append(frame)
        score += float(reward)
        if terminated or truncated:
            end = "ended" if terminated else "reached its horizon"
            break
    print(f"The dream {end} after {len(frames) - 1} steps with a return of {score:.4g}.")
    return write_mp4(command.out, np.stack(frames), frame_rate, scale=command.scale)
