"""``dreamenv collect``: record a real environment."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from dreamenv.agents.policy_folder import find_policy_folder
from dreamenv.commands.arguments import parse, report_written
from dreamenv.commands.places import RealSettings, real_maker
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
from dreamenv.envs.families import is_task
from dreamenv.envs.minetest.explorers import explorer
from dreamenv.errors import ConfigError, UnknownNameError
from dreamenv.folders import check_world

if TYPE_CHECKING:
    import gymnasium as gym

__all__ = ["Collect", "main", "policy_maker"]

_BUILT_IN = ("sticky", "random", "explorer", "scripted")


@dataclass(frozen=True, kw_only=True)
class Collect:
    """Record a real environment into a Minari dataset. Rerun it to resume after an interruption, or to record more.

    Attributes:
        env: the real environment: a task (take_cover, minigrid_door_key, ..., see `dreamenv doctor`), a gymnasium id
            (CartPole-v1), or one of your own (my_package:MyEnv-v0, my_package:MyEnv).
        out: folder of the recording.
        steps: total agent steps, exactly: the last episode is truncated there.
        episodes: total episodes, instead of steps.
        policy: who acts: "sticky" (random, mostly keeping the last action), "random", "explorer" (walks, and turns when
            it is stuck), "scripted" (an explorer of the task's own, in Minetest), or a folder that
            `dreamenv agent` wrote. Several, with each one's share of the episodes: "sticky=0.3,runs/policy=0.7".
        world: whose latents such a policy reads.
        stickiness: probability that "sticky" keeps its action for another step.
        epsilon: probability of a random action in place of an explorer's, a scripted or a trained policy's.
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
    for name, _ in _shares(command.policy):
        if name not in _BUILT_IN:
            _find_policy(name)
    if command.world is not None:
        check_world(command.world)
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
        UnknownNameError, CheckpointError, PolicyError: no such policy, or it cannot be used.
    """
    mixture = [(weight, _one(name, command, space, names)) for name, weight in _shares(command.policy)]
    make = mixture[0][1] if len(mixture) == 1 else functools.partial(_mixture, mixture)
    make()  # what cannot be made fails here, before any process has started
    return make


def _shares(policy: str) -> list[tuple[str, float]]:
    """Return the policies that are named, with their shares of the episodes."""
    parts = [part.strip() for part in policy.split(",")]
    if len(parts) == 1 and "=" not in parts[0]:
        return [(parts[0], 1.0)]
    shares = []
    for part in parts:
        name, _, share = part.rpartition("=")
        try:
            weight = float(share)
        except ValueError:
            weight = 0.0
        if not (name and 0 < weight < float("inf")):
            raise ConfigError(f"{part!r} needs a positive share, as in 'sticky=0.3,runs/policy=0.7'.")
        shares.append((name, weight))
    return shares


def _find_policy(name: str) -> Path:
    if "/" not in name and not Path(name).exists():
        raise UnknownNameError("policy or folder of one", name, _BUILT_IN)
    return find_policy_folder(name)


def _one(name: str, command: Collect, space: gym.Space[object], names: Sequence[str]) -> Callable[[], Policy]:
    if name == "random":
        return functools.partial(RandomPolicy, space)
    if name == "sticky":
        return functools.partial(StickyRandomPolicy, space, command.stickiness)
    if name == "explorer":
        make: Callable[[], Policy] = functools.partial(ExplorerPolicy, tuple(names))
    elif name == "scripted":
        task = find_task(command.env).name if is_task(command.env) else command.env
        explorer(task)  # fails here, before any process has started
        make = functools.partial(explorer, task)
    else:
        make = functools.partial(_trained, _find_policy(name), command.world)
    return functools.partial(_disturbed, make, command.epsilon, space) if command.epsilon else make


def _mixture(parts: Sequence[tuple[float, Callable[[], Policy]]]) -> Policy:
    return MixturePolicy([(weight, make()) for weight, make in parts])


def _trained(policy: Path, world: str | None) -> Policy:
    from dreamenv.agents import CollectionPolicy

    return CollectionPolicy(policy, world)


def _disturbed(make: Callable[[], Policy], epsilon: float, space: gym.Space[object]) -> Policy:
    return EpsilonPolicy(make(), epsilon, space)
