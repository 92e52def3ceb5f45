"""Looking back without weights of its own: a few gradient steps on what unseen steps might have been.

Any RSSM can do it, also one that was never trained to revise: offsets of the prior's logits of unseen steps are sought
that make the frames seen since more probable, at the price of KL(revised || prior); variational filtering EM with the
parameters held (Marino et al. 2018). It costs two passes over the remembered steps for every gradient step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dreamenv.backbones.rssm.dynamics import LatentDynamics
from dreamenv.backbones.rssm.losses import latent_nats
from dreamenv.backbones.rssm.revision import Evidence, Revision, Smoother
from dreamenv.errors import ConfigError

__all__ = ["GradientRevision", "GradientSmoother"]

_LEAST = 1e-6  # of a probability whose logarithm is taken


@dataclass(frozen=True, kw_only=True)
class GradientRevision(Revision, kind="gradient_revision"):
    """Gradient steps with Adam.

    Attributes:
        gradient_steps: how many.
        step_size: how far a logit moves in each, about.

    Raises:
        ConfigError: a number that cannot be.
    """

    gradient_steps: int = 5
    step_size: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.gradient_steps <= 1000:
            raise ConfigError(f"gradient_steps must be 1 to 1000, not {self.gradient_steps}.")
        if not self.step_size > 0:
            raise ConfigError(f"step_size must be positive, not {self.step_size}.")

    def build(self, dynamics: LatentDynamics, action_size: int) -> GradientSmoother:
        """See `Revision`."""
        return GradientSmoother(dynamics, self.gradient_steps, self.step_size)


class GradientSmoother(Smoother):
    """The search; it has no parameters.

    Args:
        dynamics: the recurrence and prior.
        gradient_steps: see `GradientRevision`.
        step_size: likewise.
    """

    def __init__(self, dynamics: LatentDynamics, gradient_steps: int, step_size: float) -> None:
        super().__init__()
        self._dynamics = (dynamics,)  # in a tuple, so that its parameters are not counted twice
        self.gradient_steps, self.step_size = gradient_steps, step_size

    def look_back(self, evidence: Evidence) -> Tensor:
        """Return the offsets, flat; see `Smoother`."""
        if not bool(evidence.informed.any()):
            return torch.zeros_like(evidence.probs).flatten(2)
        with torch.inference_mode(False), torch.enable_grad():
            given = Evidence(*(part.clone() for part in evidence))  # what inference mode made takes no gradient
            offsets = torch.zeros_like(given.probs, requires_grad=True)
            optimizer = torch.optim.Adam([offsets], lr=self.step_size)
            for _ in range(self.gradient_steps):
                (offsets.grad,) = torch.autograd.grad(self._cost(given, offsets), offsets)
                optimizer.step()
        return offsets.detach().flatten(2)

    def logits(self, prior: Tensor, deter: Tensor, hindsight: Tensor) -> Tensor:
        """Add the offsets; see `Smoother`."""
        return prior + hindsight.view_as(prior)

    def _cost(self, evidence: Evidence, offsets: Tensor) -> Tensor:
        """Return the sum over rows of the bound, with the mean of each latent in place of samples."""
        dynamics, seen, informed = self._dynamics[0], evidence.seen, evidence.informed
        posterior = evidence.probs.clamp_min(_LEAST).log()
        projected = dynamics.action_proj(evidence.actions).float()
        deter, latent, cost = evidence.deter, evidence.latent, offsets.new_zeros(())
        for i in range(seen.shape[1]):
            began = (evidence.first <= i)[:, None]
            after = dynamics.gru.step((dynamics.latent_proj(latent) + projected[:, i]).float(), deter)
            deter = torch.where(began, after, deter)
            prior = dynamics.prior(deter)
            guess = torch.where(informed[:, i, None, None], (prior + offsets[:, i]).log_softmax(dim=-1), prior)
            drawn = torch.where(seen[:, i, None, None], posterior[:, i], guess)
            cost = cost + latent_nats(drawn, prior).sum()  # 0 of steps that the prior fills in
            latent = torch.where(began[..., None], drawn.exp(), latent)
        return cost
