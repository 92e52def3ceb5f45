"""Episodes played by a policy, each to its end and counted once.

The episodes are a list of seeds. (Counting the first n to finish among parallel rows would favour short episodes.)
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from dreamenv.agents.actors import Actor
from dreamenv.agents.batch_policy import Policy, as_batch_policy
from dreamenv.agents.generators import seeded_generators
from dreamenv.agents.observations import ObservationConfig
from dreamenv.agents.results import Evaluation
from dreamenv.agents.rows import RowsVecEnv
from dreamenv.agents.views import View

__all__ = ["play_episodes"]


def play_episodes(
    policy: Policy,
    env: RowsVecEnv,
    seeds: Sequence[int],
    *,
    view: View | None = None,
    deterministic: bool = False,
    progress: bool = False,
    target: str = "",
    score_name: str = "",
) -> Evaluation:
    """Play one episode per seed in the rows of an environment; a row that is done takes the next seed.

    Args:
        policy: who acts.
        env: where; its own autoreset is not used.
        seeds: of the episodes.
        view: how the policy sees what the environment shows; None for as it is.
        deterministic: act greedily instead of sampling.
        progress: show a progress bar.
        target, score_name: as in `Evaluation`.
    """
    # An actor's samples follow from the episodes' seeds; others sample from generators that all share.
    with contextlib.nullcontext() if isinstance(policy, Actor) else seeded_generators(policy, seeds[0]):
        player = as_batch_policy(policy, env, view or View(ObservationConfig()), deterministic=deterministic)
        ended: dict[int, dict[str, Any]] = {}  # seed -> the episode's result
        waiting = list(seeds)[::-1]
        rows = np.arange(min(env.num_envs, len(seeds)))
        playing = np.zeros(env.num_envs, np.bool_)
        playing[rows] = True
        row_seed = np.zeros(env.num_envs, np.int64)
        row_seed[rows] = [waiting.pop() for _ in rows]
        # Rows beyond the number of episodes never play, but need an observation and a state to keep the batch whole.
        observations = env.reset_rows(np.arange(env.num_envs), row_seed)
        player.reset(np.arange(env.num_envs), row_seed)
        returns, lengths = np.zeros(env.num_envs), np.zeros(env.num_envs, np.int64)
        with tqdm(total=len(seeds), desc="evaluate", unit="episode", disable=not progress) as bar:
            while playing.any():
                stepped = env.step_rows(player.act(observations), playing)
                observations = stepped.observations
                returns += np.where(playing, stepped.rewards, 0.0)
                lengths += playing
                done = np.flatnonzero(playing & (stepped.terminated | stepped.truncated))
                for row in done.tolist():
                    ended[int(row_seed[row])] = {
                        "return": float(returns[row]),
                        "length": int(lengths[row]),
                        "truncated": bool(stepped.truncated[row] and not stepped.terminated[row]),
                        "score": stepped.infos[row].get("score"),
                        "success": stepped.infos[row].get("success"),
                    }
                bar.update(len(done))
                returns[done], lengths[done], playing[done] = 0.0, 0, False
                again = done[: len(waiting)]
                if len(again):
                    row_seed[again] = [waiting.pop() for _ in again]
                    observations[again] = env.reset_rows(again, row_seed[again])
                    player.reset(again, row_seed[again])
                    playing[again] = True
    results = [ended[int(seed)] for seed in seeds]
    scored = all(result["score"] is not None for result in results)
    judged = all(result["success"] is not None for result in results)
    return Evaluation(
        target=target,
        returns=[result["return"] for result in results],
        scores=[float(result["score"]) for result in results] if scored else None,
        successes=[bool(result["success"]) for result in results] if judged else None,
        lengths=[result["length"] for result in results],
        truncated=[result["truncated"] for result in results],
        seeds=[int(seed) for seed in seeds],
        deterministic=deterministic,
        score_name=score_name if scored else "",
    )
