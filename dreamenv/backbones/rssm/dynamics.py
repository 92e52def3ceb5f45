"""What comes next: ``h_t = f(h_{t-1}, z_{t-1}, a_t)`` and the prior ``p(z_t | h_t)``.

Letters: ``v`` variables of ``k`` classes each; ``d`` width of h; ``a`` width of an action's vector.
"""

from __future__ import annotations

from torch import Tensor, nn

from dreamenv.nn.actions import ActionVector
from dreamenv.nn.categorical import CategoricalLinear, mixed_probs
from dreamenv.nn.mlp import mlp
from dreamenv.nn.precision import Linear
from dreamenv.nn.recurrence import GRU

__all__ = ["LatentDynamics"]


class LatentDynamics(nn.Module):
    """The recurrence and the prior.

    Args:
        action_size: a.
        deter: d.
        hidden: width of the prior's hidden layer.
        variables: v.
        classes: k, of each.
        unimix: share of the uniform distribution in each.
    """

    def __init__(self, action_size: int, deter: int, hidden: int, variables: int, classes: int, unimix: float) -> None:
        super().__init__()
        self.classes, self.unimix = classes, unimix
        self.latent_proj = CategoricalLinear(variables, classes, 3 * deter)
        self.action_proj = Linear(action_size, 3 * deter, bias=False)
        self.gru = GRU(deter)
        self.prior_logits = mlp(deter, hidden, variables * classes)

    def forward(self, latents: Tensor, actions: Tensor) -> Tensor:
        """Run from an empty memory.

        Args:
            latents: (b, t, v, k) one-hot, of the frames before.
            actions: (b, t, a), taken there.

        Returns:
            (b, t, d). Entry i has seen actions[:, i], but not what it led to.
        """
        path: Tensor = self.gru(self.latent_proj(latents) + self.action_proj(actions))
        return path

    def project(self, action: ActionVector, actions: Tensor) -> Tensor:
        """Project actions (b, t, *a) into what `step` takes, (b, t, 3 d): all steps at once."""
        return action.project(actions, self.action_proj.weight) + self.latent_proj.bias

    def step(self, deter: Tensor, latent: Tensor, projected: Tensor) -> Tensor:
        """Take class numbers (b, v) and a projected action (b, 3 d) into what is remembered, (b, d)."""
        return self.gru.step(self.latent_proj.sum_rows(latent) + projected, deter)

    def prior(self, deter: Tensor) -> Tensor:
        """(..., d) -> the log-probabilities of the next latent, (..., v, k)."""
        return self.prior_probs(deter)[1]

    def prior_probs(self, deter: Tensor) -> tuple[Tensor, Tensor]:
        """(..., d) -> the probabilities of the next latent and their logarithms, (..., v, k) each."""
        return self.probs(self.prior_logits(deter).float())

    def probs(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The prior's logits (..., v k) -> probabilities and their logarithms, (..., v, k) each."""
        probs = mixed_probs(logits, self.classes, self.unimix)
        return probs, probs.log()
