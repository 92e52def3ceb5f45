"""``dreamenv evaluate``: score a saved policy in a dream or in a real environment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from dreamenv.agents.policy_folder import find_policy_folder
from dreamenv.commands.arguments import parse, report_written
from dreamenv.commands.places import RealSettings, check_place, find_place, load_world
from dreamenv.dream.config import DreamConfig
from dreamenv.folders import check_world

__all__ = ["Evaluate", "main"]

_DREAM = DreamConfig(episode_starts_only=True)


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Play episodes with a policy, one per seed, and summarise: mean, interquartile mean, 95% intervals.

    Models of stable-baselines3 and other policies are evaluated in Python: dreamenv.agents.evaluate(model, ...).

    Attributes:
        policy: folder that `dreamenv agent` wrote, or "random".
        on: a real environment (take_cover, CartPole-v1, my_package:MyEnv-v0), or a world's folder or hf://owner/name to
            dream in.
        world: whose encoder makes the real environment's latents, for a policy that reads them; not needed in a dream.
        episodes: how many.
        seed: of the first episode; the others count up from it.
        deterministic: act greedily instead of sampling.
        num_envs: episodes played side by side, which does not change the result; None for 16 dreams or 8 real ones.
        dream: how to dream; dreams start where recorded episodes did, as real ones do.
        real: how the real environment is set up.
        device: of world and policy, "cpu" or "cuda".
        out: JSON file to write every episode to; None only prints.
    """

    policy: Annotated[str, tyro.conf.Positional]
    on: str
    world: str | None = None
    episodes: int = 100
    seed: int = 0
    deterministic: bool = False
    num_envs: int | None = None
    dream: Annotated[DreamConfig, tyro.conf.arg(name="")] = _DREAM
    real: Annotated[RealSettings, tyro.conf.arg(name="")] = field(default_factory=RealSettings)
    device: str = "cpu"
    out: Path | None = None


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    command = parse(Evaluate, arguments, name="evaluate")
    if command.policy != "random":
        find_policy_folder(command.policy)
    check_place(command.on, command.real)
    if command.world is not None:
        check_world(command.world)

    from dreamenv.agents import SavedPolicy, evaluate
    from dreamenv.benchmarks.common import write_json

    saved = None if command.policy == "random" else SavedPolicy.load(command.policy, device=command.device)
    place = find_place(command.on, command.real, saved.provenance if saved else None, command.device)
    result = evaluate(
        saved or "random",
        place,
        episodes=command.episodes,
        seed=command.seed,
        num_envs=command.num_envs,
        world=None if command.world is None else load_world(command.world, command.device),
        deterministic=command.deterministic,
        config=None if command.dream == _DREAM else command.dream,
        progress=True,
    )
    print(result)
    if command.out is not None:
        report_written(write_json(command.out, result.to_json()))
