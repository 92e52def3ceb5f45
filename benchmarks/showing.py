"""Show results: reality and dream side by side under the same actions, and videos of policies."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from dreamenv.agents import CollectionPolicy, DreamVecEnv, SavedPolicy
from dreamenv.data import Episode, EpisodeDataset
from dreamenv.dream.chunking import frame_by_frame
from dreamenv.extras import require
from dreamenv.frames import frames_to_model, frames_to_numpy
from dreamenv.storage import write_file
from dreamenv.training.video import side_by_side, strip, write_mp4
from dreamenv.world import World

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "CONTEXT",
    "SHOWN_STEPS",
    "draw_lines",
    "dream_along",
    "longest_episodes",
    "video_of_dream",
    "video_of_real_episode",
    "write_sheet",
    "write_side_by_side",
    "write_strip",
]

CONTEXT = 8
"""Frames that are observed before a shown dream starts."""

SHOWN_STEPS = (1, 5, 15, 30, 50, 100)
"""Steps into a dream whose frames are shown in a row."""

Frames = npt.NDArray[np.uint8]


def longest_episodes(dataset: EpisodeDataset, count: int, min_steps: int) -> list[Episode]:
    """Return the first ``count`` episodes of at least ``min_steps`` steps, else the longest."""
    lengths = [len(dataset[i].actions) for i in range(len(dataset))]
    long_enough = [i for i, length in enumerate(lengths) if length >= min_steps]
    chosen = long_enough or sorted(range(len(lengths)), key=lambda i: -lengths[i])
    return [dataset[i] for i in chosen[:count]]


def dream_along(world: World, episode: Episode, *, context: int, steps: int, seed: int = 0) -> tuple[Frames, Frames]:
    """Observe the start of an episode, then dream under the episode's own actions.

    Returns:
        Reality and dream after 1, 2, ... n steps, each (n, h, w, c) uint8; n < ``steps`` where the episode ends.
    """
    device = world.device
    frames = frames_to_model(episode.frames, device, channels_last=True)[None]
    actions = torch.from_numpy(np.asarray(episode.actions))[None].to(device)
    length = min(steps, actions.shape[1] - context - 1)  # the last frame may be the repeated one of a terminal step
    model: Any = frame_by_frame(world.model)
    model.eval()
    with torch.inference_mode():
        state = model.start(frames[:, 0], torch.tensor([seed], device=device))
        if context:
            state = model.observe(state, actions[:, :context], frames[:, 1 : context + 1])
        imagined, _ = model.imagine(state, actions[:, context : context + length])
    dreamt: Tensor = imagined.frames[0]
    return episode.frames[context + 1 : context + 1 + length], frames_to_numpy(dreamt)


def write_side_by_side(folder: Path, world: World, held_out: EpisodeDataset, *, examples: int = 3) -> None:
    """Write ``side_by_side.mp4`` and ``.png``: reality and dream of held-out episodes under the same actions.

    The video shows an episode per row, reality left; the image shows the first episode after `SHOWN_STEPS`, reality
    above.
    """
    episodes = longest_episodes(held_out, examples, CONTEXT + SHOWN_STEPS[-1] + 2)
    pairs = [dream_along(world, episode, context=CONTEXT, steps=SHOWN_STEPS[-1]) for episode in episodes]
    length = min(len(real) for real, _ in pairs)
    real, dreamt = (np.stack([pair[i][:length] for pair in pairs]) for i in (0, 1))
    folder.mkdir(parents=True, exist_ok=True)
    write_mp4(folder / "side_by_side.mp4", side_by_side(real, dreamt), world.spec.frame_rate, scale=2)
    steps = [step - 1 for step in SHOWN_STEPS if step <= len(pairs[0][0])]
    Image.fromarray(strip(pairs[0], steps, scale=2)).save(folder / "side_by_side.png")


def write_strip(path: Path, world: World, held_out: EpisodeDataset, *, examples: int = 3) -> Path:
    """Write an image of held-out episodes after `SHOWN_STEPS`: for each reality, and below it the dream.

    Raises:
        StorageError: the disk refused.
    """
    rows = []
    for episode in longest_episodes(held_out, examples, CONTEXT + SHOWN_STEPS[-1] + 2):
        if len(episode.actions) > CONTEXT + 1:
            rows.append(dream_along(world, episode, context=CONTEXT, steps=SHOWN_STEPS[-1]))
    if rows:
        length = min(len(real) for real, _ in rows)
        steps = [step - 1 for step in SHOWN_STEPS if step <= length]
        picture = io.BytesIO()
        frames = [one[:length] for pair in rows for one in pair]
        Image.fromarray(strip(frames, steps, scale=2).squeeze()).save(picture, "PNG", optimize=True)
        write_file(path, picture.getvalue())
    return path


def write_sheet(path: Path, folders: dict[str, Path]) -> None:
    """Stack the images of several worlds' `write_side_by_side`: reality, then each dream with its name.

    Args:
        path: of the image to write.
        folders: name -> folder that `write_side_by_side` wrote.
    """
    images = {name: Image.open(folder / "side_by_side.png").convert("RGB") for name, folder in folders.items()}
    first = next(iter(images.values()))
    width, height, margin = first.width, first.height // 2, 150
    rows = {"reality": first.crop((0, 0, width, height))}
    rows |= {name: image.crop((0, image.height - height, width, image.height)) for name, image in images.items()}
    sheet = Image.new("RGB", (margin + width, (height + 2) * len(rows)), "white")
    pen = ImageDraw.Draw(sheet)
    for place, (name, image) in enumerate(rows.items()):
        sheet.paste(image, (margin, place * (height + 2)))
        pen.text((6, place * (height + 2) + height // 2 - 6), name.replace("_", " "), fill="black")
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, optimize=True)


def video_of_dream(policy: SavedPolicy, world: World, *, steps: int, seed: int, deterministic: bool = False) -> Frames:
    """Return the frames of one dream under a policy, from an episode's start to its end, at most ``steps``."""
    env = DreamVecEnv(
        world, 1, observation=policy.config.observation, episode_starts_only=True, render_mode="rgb_array"
    )
    seeds, rows = np.array([seed], np.int64), np.zeros(1, np.int64)
    observation, state = env.reset_rows(rows, seeds), policy.start(seeds)
    frames = []
    try:
        for _ in range(steps):
            picture = env.render()
            if picture is not None:
                frames.append(picture)
            action, state = policy.act(observation, state, deterministic=deterministic)
            stepped = env.step_rows(action, np.ones(1, np.bool_))
            observation = stepped.observations
            if stepped.terminated[0] or stepped.truncated[0]:
                break
    finally:
        env.close()
    return np.stack(frames)


def video_of_real_episode(
    policy: SavedPolicy,
    world: World | None,
    env: gym.Env[Any, Any],
    *,
    steps: int,
    seed: int,
    deterministic: bool = False,
) -> Frames:
    """Return the frames of one real episode under a policy, at most ``steps``; close the environment."""
    actor = CollectionPolicy(policy, world, deterministic=deterministic)
    frames = []
    try:
        frame, _ = env.reset(seed=seed)
        actor.reset(seed)
        for _ in range(steps):
            frames.append(frame)
            frame, _, terminated, truncated, _ = env.step(actor.act(frame))
            if terminated or truncated:
                break
    finally:
        env.close()
    return np.stack(frames)


def draw_lines(
    lines: Sequence[tuple[str, Sequence[float], Sequence[float]]], *, x: str, y: str, log_x: bool = False
) -> Figure:
    """Draw (name, xs, ys) lines with named axes.

    Raises:
        MissingDependencyError: there is no matplotlib.
    """
    require("matplotlib", extra="report")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import EngFormatter

    figure, axes = plt.subplots(figsize=(5.2, 3.2))
    for name, xs, ys in lines:
        axes.plot(xs, ys, label=name, marker="o" if len(xs) <= 12 else None, markersize=3.5, linewidth=1.6)
    if log_x:
        axes.set_xscale("log")
    else:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 50k instead of 50000
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    if len(lines) > 1:
        axes.legend(frameon=False, fontsize=9)
    return figure
