"""The result of an evaluation: every episode, and their summary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dreamenv.metrics.statistics import Summary, mean_iqm_interval

__all__ = ["Evaluation"]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Episodes and their scores; lists have one value per episode, in the order of the seeds.

    Attributes:
        target: where: "dream" or the real environment's id.
        returns: undiscounted sums of rewards, in the environment's units.
        scores: the last ``info["score"]`` of each; None where the environment has none.
        successes: the last ``info["success"]`` of each; None likewise.
        lengths: agent steps.
        truncated: whether a time limit ended it.
        seeds: the episodes' seeds.
        deterministic: whether the policy acted greedily instead of sampling.
        score_name: what the score is, with its unit.
    """

    target: str
    returns: list[float]
    scores: list[float] | None
    successes: list[bool] | None
    lengths: list[int]
    truncated: list[bool]
    seeds: list[int]
    deterministic: bool
    score_name: str = ""

    @property
    def episodes(self) -> int:
        """The number of episodes."""
        return len(self.returns)

    @property
    def values(self) -> list[float]:
        """The scores, or the returns where there are none."""
        return self.returns if self.scores is None else self.scores

    def summary(self) -> Summary:
        """Return mean, interquartile mean and 95% intervals of `values`."""
        return mean_iqm_interval(self.values, seed=0)

    def return_summary(self) -> Summary:
        """Return the same of the returns."""
        return mean_iqm_interval(self.returns, seed=0)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values: all episodes, and their summaries."""
        return {
            "target": self.target,
            "episodes": self.episodes,
            "score_name": self.score_name,
            "summary": self.summary().to_json(),
            "return_summary": self.return_summary().to_json(),
            "success_rate": float(np.mean(self.successes)) if self.successes is not None else None,
            "returns": self.returns,
            "scores": self.scores,
            "successes": self.successes,
            "lengths": self.lengths,
            "truncated": self.truncated,
            "seeds": self.seeds,
            "deterministic": self.deterministic,
        }

    def __str__(self) -> str:
        name = self.score_name or ("return" if self.scores is None else "score")
        return f"{self.target}: {name} {self.summary()}"
