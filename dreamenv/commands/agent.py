"""``dreamenv agent``: PPO in a dream, in a real environment, or in both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from dreamenv.agents.config import AgentConfig
from dreamenv.commands.arguments import parse, report_written
from dreamenv.commands.places import RealSettings, check_place, find_place, load_world, real_maker
from dreamenv.envs import full_id
from dreamenv.folders import check_world

__all__ = ["Agent", "main"]


@dataclass(frozen=True, kw_only=True)
class Agent:
    """Train a policy with PPO. Safe to interrupt: rerun the same command to resume.

    Attributes:
        out: folder of the run: policy/, checkpoints/ and tensorboard/ are written in it.
        world: folder of a world, or hf://owner/name; None for the one in the package, unless --where real needs none.
        env: the real environment (take_cover, CartPole-v1, my_package:MyEnv-v0), for --where real or mixed.
        evaluate_in: where --eval-every evaluates: a real environment's name or a world; None for where it trains.
        fresh: start over instead of resuming from a checkpoint.
        real: how the real environment is set up.
        config: how to learn.
    """

    out: Path
    world: str | None = None
    env: str | None = None
    evaluate_in: str | None = None
    fresh: bool = False
    real: Annotated[RealSettings, tyro.conf.arg(name="real")] = field(default_factory=RealSettings)
    config: Annotated[AgentConfig, tyro.conf.arg(name="")] = field(default_factory=AgentConfig)


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    command = parse(Agent, arguments, name="agent")
    if command.world is not None:
        check_world(command.world)
    if command.env is not None:
        full_id(command.env)
    if command.evaluate_in is not None:
        check_place(command.evaluate_in, command.real)

    from dreamenv.agents import train_agent

    config = command.config
    alone = config.where == "real" and config.observation.kind == "frame" and command.world is None
    world = None if alone else load_world(command.world, config.device)
    provenance = world.provenance if world is not None else None
    train_agent(
        config,
        out=command.out,
        world=world,
        real=None if command.env is None else real_maker(command.env, command.real, provenance),
        evaluate_in=None
        if command.evaluate_in is None
        else find_place(command.evaluate_in, command.real, provenance, config.device),
        resume=not command.fresh,
    )
    report_written(command.out / "policy")
