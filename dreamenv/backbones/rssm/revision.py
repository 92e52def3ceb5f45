"""How the RSSM looks back: what later frames say of steps whose frame was not seen, ``q(z_i | h_i, x_{i+1..t})``.

A *smoother* reads the steps that a state remembers and makes, for each, what later frames say of it; added to the
prior's logits along the way forward from an unchanged anchor, that gives the latents of unseen steps in hindsight.
`BackwardConfig` learns it: a small recurrence runs backward over the frames' latents, as in deep Kalman smoothers
(Krishnan et al. 2017) and variational recurrent Kalman networks (Becker and Neumann 2022). `GradientRevision` needs no
weights: `dreamenv.backbones.rssm.gradient_revision`.

Letters: ``l`` remembered steps, ``v`` variables of ``k`` classes each, ``d`` width of h.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dreamenv.backbones.rssm.dynamics import LatentDynamics
from dreamenv.backbones.rssm.training import RSSMStage
from dreamenv.errors import ConfigError
from dreamenv.nn.mlp import mlp
from dreamenv.nn.precision import Linear
from dreamenv.nn.recurrence import GRU
from dreamenv.parts import Part

__all__ = ["BackwardConfig", "BackwardNetwork", "Evidence", "Revision", "Smoother"]

_MOST_STEPS = 256  # each keeps a memory per row, and is a step of every revision


class Evidence(NamedTuple):
    """What is known of the last l steps of b rows, oldest first.

    Attributes:
        probs: (b, l, v, k) the probabilities that the frames' posterior gives; of no meaning where none was seen.
        seen: (b, l) bool, whether the step's frame was seen.
        actions: (b, l, a) vectors of the actions that led to them.
        first: (b,) the place of the first step that there was; nothing before it means anything, nor was it seen.
        deter: (b, d) the memory before that step.
        latent: (b, v, k) one-hot, the latent before it.
    """

    probs: Tensor
    seen: Tensor
    actions: Tensor
    first: Tensor
    deter: Tensor
    latent: Tensor

    @property
    def informed(self) -> Tensor:
        """(b, l) bool: steps whose frame was not seen, but a later one was."""
        later = self.seen.flip(1).cumsum(dim=1).flip(1) > 0  # a step that was seen itself is not asked about
        return later & ~self.seen


class Smoother(nn.Module, ABC):
    """Turns evidence into the latents' probabilities in hindsight."""

    @abstractmethod
    def look_back(self, evidence: Evidence) -> Tensor:
        """Return what is known of each step from the frames after it, (b, l, n)."""

    @abstractmethod
    def logits(self, prior: Tensor, deter: Tensor, hindsight: Tensor) -> Tensor:
        """Return log-probabilities (b, v, k), not normalised, of a step's latent.

        Args:
            prior: (b, v, k) those that the steps before it give.
            deter: (b, d) the memory that they are made of.
            hindsight: (b, n) what `look_back` says of the step.
        """


@dataclass(frozen=True, kw_only=True)
class Revision(Part, ABC):
    """Family of ways to revise what an RSSM remembers.

    Attributes:
        steps: how many past steps a state keeps, and can revise.
    """

    steps: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= _MOST_STEPS:
            raise ConfigError(f"steps of a revision must be 1 to {_MOST_STEPS}, not {self.steps}.")

    @abstractmethod
    def build(self, dynamics: LatentDynamics, action_size: int) -> Smoother:
        """Return the smoother, for that recurrence and prior."""


@dataclass(frozen=True, kw_only=True)
class BackwardConfig(Revision, kind="backward"):
    """A learned backward recurrence.

    Attributes:
        hidden: its width.
        training: a third stage, which trains it, and the recurrence and prior with it, on recordings from which
            frames are hidden at random.

    Raises:
        ConfigError: a size that cannot be.
    """

    hidden: int = 128
    training: RSSMStage = RSSMStage(steps=600, batch_size=16, sequence_length=64)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden < 1:
            raise ConfigError(f"hidden must be at least 1, not {self.hidden}.")

    def build(self, dynamics: LatentDynamics, action_size: int) -> BackwardNetwork:
        """See `Revision`."""
        variables = len(dynamics.latent_proj.offsets)
        return BackwardNetwork(variables, dynamics.classes, action_size, dynamics.gru.size, self.hidden)


class BackwardNetwork(Smoother):
    """The recurrence, and a correction of the prior that begins as none.

    Args:
        variables: v.
        classes: k.
        action_size: width of an action's vector.
        deter: d.
        hidden: width of the recurrence.
    """

    def __init__(self, variables: int, classes: int, action_size: int, deter: int, hidden: int) -> None:
        super().__init__()
        self.input_proj = Linear(variables * classes + action_size + 1, 3 * hidden)
        self.gru = GRU(hidden)
        self.correction = mlp(deter + hidden, deter, variables * classes)
        last = self.correction[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def look_back(self, evidence: Evidence) -> Tensor:
        """Run backward; see `Smoother`."""
        seen = evidence.seen[..., None].float()
        given = torch.cat((evidence.probs.flatten(2) * seen, seen, evidence.actions), dim=-1)
        projected = self.input_proj(given).float()
        hidden = projected.new_zeros(len(projected), self.gru.size)
        later, known = evidence.seen.flip(1).cumsum(dim=1).flip(1)[..., None] > 0, []
        for i in reversed(range(projected.shape[1])):
            known.append(hidden)
            # What comes after the newest frame says nothing, so that how far one looks ahead of it does not matter.
            hidden = torch.where(later[:, i], self.gru.step(projected[:, i], hidden), 0.0)
        return torch.stack(known[::-1], dim=1)

    def logits(self, prior: Tensor, deter: Tensor, hindsight: Tensor) -> Tensor:
        """Correct the prior; see `Smoother`."""
        correction = self.correction(torch.cat((deter, hindsight), dim=-1)).float()
        corrected: Tensor = prior + correction.unflatten(-1, prior.shape[-2:])
        return corrected
