"""The page that the demo ends with: a verdict in words, the scores behind it, pictures, videos, curves and settings."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dreamenv.benchmarks.common import commit, machine, peak_memory_mib
from dreamenv.benchmarks.loop import FIRST_EVALUATION_SEED, Loop
from dreamenv.benchmarks.recipes import Recipe
from dreamenv.benchmarks.report import Page, Section, Strips, Table, Video, picture_of
from dreamenv.benchmarks.showing import (
    CONTEXT,
    SHOWN_STEPS,
    draw_lines,
    dream_along,
    longest_episodes,
    video_of_dream,
    video_of_real_episode,
)
from dreamenv.data import EpisodeDataset
from dreamenv.metrics.statistics import Summary
from dreamenv.metrics.summary import HOW_TO_READ, summary_table
from dreamenv.metrics.verdict import fidelity_verdict
from dreamenv.training.video import side_by_side, write_mp4
from dreamenv.world import World

__all__ = ["Scores", "fidelity_curves", "make_page", "make_videos", "score_table", "verdict"]

_EXAMPLES = 3


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The scores of the policies, more is better.

    Attributes:
        name: what the score is, with its unit.
        frames: real agent steps that were recorded, and that the rival learned from.
        random: acting at random, in the real environment.
        rival: PPO trained in the real environment, there.
        dreamer: PPO trained in the dream alone, in the real environment.
        in_dream: the same policy in its dream.
    """

    name: str
    frames: int
    random: Summary
    rival: Summary
    dreamer: Summary
    in_dream: Summary


def verdict(scores: Scores) -> str:
    """Return what came out, in words; policies differ where their 95% intervals lie apart."""
    against_rival, against_random = _compare(scores.dreamer, scores.rival), _compare(scores.dreamer, scores.random)
    answer = {
        ("above", "above"): "Yes, and better than learning there from as many frames.",
        ("level", "above"): "Yes, and as well as learning there from as many frames.",
        ("below", "above"): "In part: better than chance, but worse than learning there from as many frames.",
    }.get((against_rival, against_random), "No: this time it does no better than chance.")
    words = {"above": "above", "level": "not clearly apart from", "below": "below"}
    dreamed, real = scores.in_dream.mean, scores.dreamer.mean
    flatters = (
        f" In its dream it scores {_number(dreamed)}: the dream flatters it, so trust the real score."
        if _compare(scores.in_dream, scores.dreamer) == "above"
        else f" In its dream it scores {_number(dreamed)}."
    )
    return (
        f"Does a policy that learned in the dream alone work in the real environment? {answer} It scores "
        f"{_number(real)} ({scores.name}), {words[against_rival]} the {_number(scores.rival.mean)} of PPO trained in "
        f"the real environment on as many frames ({scores.frames:,}), and {words[against_random]} the "
        f"{_number(scores.random.mean)} of random actions.{flatters}"
    )


def score_table(scores: Scores) -> Table:
    """Return the table of scores; in bold the policy that is clearly the best in the real environment, if one is."""
    rows = {
        "random actions, in the real environment": scores.random,
        f"PPO trained in the real environment on as many frames ({scores.frames:,})": scores.rival,
        "PPO trained in the dream alone, in the real environment": scores.dreamer,
        "the same policy in its dream": scores.in_dream,
    }
    real = [scores.random, scores.rival, scores.dreamer]
    best = [
        place
        for place, one in enumerate(real)
        if all(_compare(one, other) == "above" for other in real if other is not one)
    ]
    cells = []
    for name, summary in rows.items():
        low, high = summary.mean_interval
        interval = f"{_number(low)} to {_number(high)}"
        cells.append((name, _number(summary.mean), interval, _number(summary.iqm), str(summary.count)))
    return Table(header=("policy", "mean", "95% interval", "IQM", "episodes"), rows=cells, emphasised=best)


def _compare(one: Summary, other: Summary) -> str:
    if one.mean_interval[0] > other.mean_interval[1]:
        return "above"
    return "below" if one.mean_interval[1] < other.mean_interval[0] else "level"


def make_videos(loop: Loop, world: World, policy: Any, held_out: EpisodeDataset, folder: Path) -> dict[str, Any]:
    """Make the videos and the frames that the report shows."""
    rate = world.spec.frame_rate
    episodes = longest_episodes(held_out, _EXAMPLES, CONTEXT + SHOWN_STEPS[-1] + 2)
    pairs = [dream_along(world, episode, context=CONTEXT, steps=SHOWN_STEPS[-1]) for episode in episodes]
    videos = [
        write_mp4(folder / f"side-by-side-{i}.mp4", side_by_side(real[None], dreamt[None]), rate, scale=3)
        for i, (real, dreamt) in enumerate(pairs)
    ]
    inside = video_of_dream(policy, world, steps=300, seed=1)
    outside = video_of_real_episode(policy, world, loop.make_env(), steps=300, seed=FIRST_EVALUATION_SEED)
    return {
        "pairs": pairs,
        "comparisons": videos,
        "in_dream": write_mp4(folder / "policy-in-dream.mp4", inside, rate, scale=4),
        "in_reality": write_mp4(folder / "policy-real.mp4", outside, rate, scale=4),
    }


def make_page(
    recipe: Recipe,
    dataset: EpisodeDataset,
    scores: Scores,
    likeness: dict[str, Any],
    seconds: Mapping[str, float],
    folder: Path,
    videos: dict[str, Any],
    settings: Mapping[str, Any],
) -> Page:
    """Put the page together.

    Args:
        recipe: what was done.
        dataset: the recording.
        scores: of the policies.
        likeness: what `dreamenv.metrics.fidelity` and `what_agents_need` measured on held-out episodes.
        seconds: by step.
        folder: of the loop, in which TensorBoard files lie.
        videos: what `make_videos` returned.
        settings: of the demo.
    """
    strips = [
        _strips(real, dreamt, f"Held-out episode {i + 1}: the world saw {CONTEXT} frames, then dreamed alone.")
        for i, (real, dreamt) in enumerate(videos["pairs"])
    ]
    spent = Table(header=("step", "seconds"), rows=[(name, f"{one:.0f}") for name, one in seconds.items()])
    facts = [
        ("real frames", f"{dataset.total_steps:,} in {len(dataset)} episodes"),
        ("effort", f"{settings['effort']:g} of the recipe's training steps"),
        ("seed", str(settings["seed"])),
        ("time so far", f"{sum(seconds.values()) / 60:.1f} min"),
        ("peak memory", f"{peak_memory_mib() / 1024:.1f} GiB"),
        ("processor", str(machine()["processor"])),
        ("cores", str(machine()["cores"])),
        ("commit", (commit() or "unknown")[:10]),
        ("date", time.strftime("%Y-%m-%d")),
    ]
    return Page(
        title=f"{recipe.task}: trained in a dream, tested in the real environment",
        lead="A world model was trained on recorded play. PPO learned inside the dream alone, and was then put into "
        "the real environment, which it had never acted in. This world had minutes of training; those in the package "
        "(dreamenv worlds) had about an hour each.",
        verdict=verdict(scores),
        facts=facts,
        sections=[
            Section(
                title="Scores",
                text=f"Score: {scores.name}; more is better. One policy per row, of one training seed. Bold is what is "
                "clearly the best in the real environment: no other 95% interval reaches its own.",
                parts=[score_table(scores)],
            ),
            Section(
                title="The policy at work",
                text="In the dream it was trained in, and in the real environment.",
                parts=[
                    Video(path=videos["in_dream"], caption="In the dream."),
                    Video(path=videos["in_reality"], caption="In the real environment."),
                ],
            ),
            Section(
                title="Reality and dream under the same actions",
                text="The same recorded actions drive both. What the world could not know drifts apart; what it must "
                "know should not.",
                parts=[
                    *strips,
                    *(Video(path=path, caption="Reality left, dream right.") for path in videos["comparisons"]),
                ],
            ),
            _needs(likeness),
            Section(
                title="How long the dream stays true", text=fidelity_verdict(likeness), parts=fidelity_curves(likeness)
            ),
            Section(title="Learning curves", parts=_learning_curves(folder)),
            Section(
                title="Settings",
                text="Effort is the share of the recipe's training steps that were taken: below 1 the policies are not "
                "the best that the recipe gives.",
                parts=[_settings_table(recipe, settings)],
            ),
            Section(title="Where the time went", parts=[spent]),
        ],
    )


def _needs(likeness: Mapping[str, Any]) -> Section:
    """Show what a policy needs of a dream: its objects, its actions, sharp pictures."""
    header, rows = summary_table(likeness)
    rfvd = likeness.get("rfvd")
    distance = (
        f" As videos, dreams are {rfvd['dream']:.1f} away from real ones, where other real ones are "
        f"{rfvd['floor']:.1f} away and a picture that stands still {rfvd['persistence']:.1f} (Fréchet distance in a "
        "network of random weights, comparable only with itself)."
        if rfvd
        else ""
    )
    return Section(
        title="Does the dream show what a policy needs?",
        text=HOW_TO_READ + distance,
        parts=[Table(header=header, rows=rows)] if rows else [],
    )


def fidelity_curves(likeness: Mapping[str, Any]) -> list[Any]:
    """Draw PSNR and SSIM over the horizon, of the dream and of repeating the last frame."""
    frames = likeness["horizons"]
    horizons = [int(step) for step in frames]
    return [
        picture_of(
            draw_lines(
                [
                    (name, horizons, [frames[h][f"{prefix}{measure}"]["mean"] for h in frames])
                    for name, prefix in (("dream", ""), ("last frame again", "persistence_"))
                ],
                x="steps into the dream", y=label, log_x=True,
            ),
            f"{label} of dreamed against recorded frames, held-out episodes",
        )
        for measure, label in (("psnr", "PSNR (dB)"), ("ssim", "SSIM"))
    ]  # fmt: skip


def _settings_table(recipe: Recipe, settings: Mapping[str, Any]) -> Table:
    effort = float(settings["effort"])
    training = recipe.backbone.training
    steps = {"joint": training.joint.steps, "dynamics": training.dynamics.steps} | dict(recipe.rounds[-1].steps)
    rows = [
        *((name.replace("_", " "), str(value)) for name, value in settings.items() if name not in ("out", "open")),
        ("recorded by", recipe.recorder),
        ("reward that is learned", recipe.reward),
        ("world", f"{recipe.backbone.kind}: " + ", ".join(f"{int(effort * n):,} {name}" for name, n in steps.items())),
        ("PPO in the dream", f"{int(effort * recipe.latent_agent.total_steps):,} steps"),
    ]
    return Table(header=("setting", "value"), rows=rows)


def _strips(real: Any, dreamt: Any, caption: str) -> Strips:
    steps = [step for step in SHOWN_STEPS if step <= len(real)]
    index = np.asarray(steps) - 1
    return Strips(steps=steps, rows=[("reality", real[index]), ("dream", dreamt[index])], caption=caption)


def _learning_curves(folder: Path) -> list[Any]:
    """Draw the losses of the worlds and the returns of the agents from their TensorBoard files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    wanted = {
        "joint/reconstruction": "reconstruction loss",
        "dynamics/dynamics": "KL of the prior (nats)",
        "rollout/ep_rew_mean": "return per episode",
    }
    lines: dict[str, list[Any]] = {tag: [] for tag in wanted}
    for events in sorted(folder.glob("*/**/events.out.tfevents.*")):
        log = EventAccumulator(str(events), size_guidance={"scalars": 2000})
        log.Reload()
        name = events.relative_to(folder).parts
        for tag in log.Tags()["scalars"]:
            for ending in wanted:
                if tag.endswith(ending):
                    scalars = log.Scalars(tag)
                    label = name[1] if name[0] == "agents" else name[0]
                    if tag != ending and name[0] != "agents":
                        label += ", held out"
                    lines[ending].append((label, [s.step for s in scalars], [s.value for s in scalars]))
    return [
        picture_of(draw_lines(found, x="steps", y=wanted[tag]), wanted[tag][0].upper() + wanted[tag][1:] + ".")
        for tag, found in lines.items()
        if found
    ]


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}"
