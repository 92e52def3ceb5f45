"""``dreamenv collect``: record a real environment."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from dreamenv.commands.arguments import parse, report_written
from dreamenv.commands.places import RealSettings, real_maker, within
from dreamenv.data import (
    EpsilonPolicy,
    ExplorerPolicy,
    MixturePolicy,
    Policy,
    RandomPolicy,
    StickyRandomPolicy,
    collect,
)
from dreamenv.envs import find_task
from dreamenv.envs.minetest.explorers import explorer
from dreamenv.errors import ConfigError

if TYPE_CHECKING:
    import gymnasium as gym

__all__ = ["Collect", "main", "policy_maker"]


@dataclass(frozen=True, kw_only=True)
class Collect:
    """Record a real environment into a Minari dataset. Rerun it to resume after an interruption, or to record more.

    Attributes:
        env: the real environment (take_cover, minigrid_door_key, ..., see `dreamenv doctor`, or a full id).
        out: folder of the recording.
        steps: total agent steps, exactly: the last episode is truncated there.
        episodes: total episodes, instead of steps.
        policy: who acts: "sticky" (random, mostly keeping the last action), "random", "explorer" (walks, and turns when
            it is stuck), "scripted" (an explorer of the task's own, in Minetest), or a folder that
            `dreamenv agent` wrote. Several, with each one's share of the episodes: "sticky=0.3,runs/policy=0.7".
        world: whose latents such a policy reads.
        stickiness: probability that "sticky" keeps its action for another step.
        epsilon: probability of a random action in place of a trained policy's.
        workers: recording processes.
        seed: of environment and policy, at least 0; with it, the recording is always the same.
        real: how the real environment is set up.
    """

    env: Annotated[str, tyro.conf.Positional]
    out: Path
    steps: int | None = None
    episodes: int | None = None
    policy: str = "sticky"
    world: str | None = None
    stickiness: float = 0.75
    epsilon: float = 0.0
    workers: int = 2
    seed: int = 0
    real: Annotated[RealSettings, tyro.conf.arg(name="")] = field(default_factory=RealSettings)

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.episodes is None):
            raise ConfigError("give either --steps or --episodes, such as --steps 50000.")


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    command = parse(Collect, arguments, name="collect")
    make_env = real_maker(command.env, command.real)
    env = make_env()
    space, names = env.action_space, env.get_wrapper_attr("provenance").action_names
    env.close()
    dataset = collect(
        make_env,
        policy_maker(command, space, names),
        command.out,
        steps=command.steps,
        episodes=command.episodes,
        num_workers=command.workers,
        seed=command.seed,
    )
    print(f"{len(dataset)} episodes, {dataset.total_steps} steps")
    report_written(command.out)


def policy_maker(command: Collect, space: gym.Space[object], names: Sequence[str] = ()) -> Callable[[], Policy]:
    """Return a picklable function that makes the requested policy.

    Args:
        command: the settings.
        space: the actions.
        names: of the discrete actions.

    Raises:
        ConfigError: shares that are no positive numbers, or an explorer where the names do not say how to walk.
    """
    parts = [part.strip() for part in command.policy.split(",")]
    if len(parts) == 1 and "=" not in parts[0]:
        return _one(parts[0], command, space, names)
    mixture = []
    for part in parts:
        name, _, share = part.rpartition("=")
        try:
            weight = float(share)
        except ValueError:
            weight = 0.0
        if not name or weight <= 0:
            raise ConfigError(f"{part!r} needs a positive share, as in 'sticky=0.3,runs/policy=0.7'.")
        mixture.append((weight, _one(name, command, space, names)))
    return functools.partial(_mixture, mixture)


def _one(name: str, command: Collect, space: gym.Space[object], names: Sequence[str]) -> Callable[[], Policy]:
    if name == "explorer":
        ExplorerPolicy(names)  # fails here, before any process has started
        return functools.partial(ExplorerPolicy, tuple(names))
    if name == "random":
        return functools.partial(RandomPolicy, space)
    if name == "sticky":
        return functools.partial(StickyRandomPolicy, space, command.stickiness)
    if name == "scripted":
        return functools.partial(explorer, find_task(command.env).name)
    world = None if command.world is None else str(within(command.world, "world"))
    return functools.partial(_trained, within(name, "policy"), world, command.epsilon, space)


def _mixture(parts: Sequence[tuple[float, Callable[[], Policy]]]) -> Policy:
    return MixturePolicy([(weight, make()) for weight, make in parts])


def _trained(policy: Path, world: str | None, epsilon: float, space: gym.Space[object]) -> Policy:
    from dreamenv.agents import CollectionPolicy

    agent = CollectionPolicy(policy, world)
    return EpsilonPolicy(agent, epsilon, space) if epsilon else agent
