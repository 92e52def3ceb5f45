"""What looking back is learned from: recordings from which frames are hidden, and a bound with a lag.

A window is cut into pieces of twice as many steps as a state remembers, each from the memory that all frames before it
give. In each, runs of 1 to ``steps`` frames are hidden, and at a random step a revision looks back a random number of
steps, 0 to ``steps``. The latent of a seen step comes from its frame; that of a hidden one from the smoother where the
revision reaches it and a later frame is known by then, else from the prior. Along this path

- the bound of the seen frames' latents (Krishnan et al. 2017) is raised: seen steps cost KL(posterior || prior), what
  the smoother says costs KL(smoother || prior). It trains the dynamics to go on from memories with gaps, and the
  smoother to serve what comes later;
- the smoother imitates the posterior of hidden frames, which the recording knows: KL(posterior || smoother), that is
  maximum likelihood.

Letters: ``v`` variables of ``k`` classes each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from dreamenv.backbones.rssm.losses import Loss, RSSMLoss, latent_nats, masked_mean, sample_latents
from dreamenv.backbones.rssm.revision import Evidence, Smoother
from dreamenv.nn.precision import autocast
from dreamenv.world_model import Batch

__all__ = ["RevisionLoss"]

_RUNS = 2  # of hidden frames, in a piece


@dataclass(frozen=True)
class RevisionLoss:
    """The loss of the third stage.

    Attributes:
        steps: that a state remembers.
        losses: of the stage before, which goes on beside it.
        smoother: what learns to look back.
    """

    steps: int
    losses: RSSMLoss
    smoother: Smoother

    def __call__(self, batch: Batch) -> Loss:
        """Return what the dynamics' stage minimises, and both terms above."""
        loss, terms = self.losses.dynamics_only(batch)
        assert batch.features is not None
        posterior = batch.features.float()  # b t+1 v k
        dynamics = self.losses.dynamics
        with autocast(posterior.device, self.losses.config.bfloat16 and dynamics.training):
            pieces = self._cut(batch, posterior)
            terms["bound"], terms["imitation"] = self._gaps(pieces, batch.generator)
        return loss + terms["bound"] + terms["imitation"], terms

    def _cut(self, batch: Batch, posterior: Tensor) -> tuple[Evidence, Tensor]:
        """Return pieces of windows as evidence of which all is seen, and the weights (n, l) of their steps."""
        t = batch.actions.shape[1]
        length = min(2 * self.steps, t)
        count = t // length
        first = int(torch.randint(t - count * length + 1, (), generator=batch.generator, device=posterior.device))
        latents = sample_latents(posterior, batch.generator)
        actions = self.losses.action(batch.actions)
        with torch.no_grad():
            path = self.losses.dynamics(latents[:, :-1], actions)
        path = torch.cat((torch.zeros_like(path[:, :1]), path), dim=1)  # before every step

        def cut(values: Tensor) -> Tensor:
            return rearrange(values[:, first : first + count * length], "b (n l) ... -> (b n) l ...", n=count)

        weight = cut(batch.weight * ~batch.terminated)
        start, before = torch.zeros_like(weight[:, 0]), (cut(path)[:, 0], cut(latents[:, :-1])[:, 0])
        return Evidence(cut(posterior[:, 1:]), weight > 0, cut(actions), start, *before), weight

    def _gaps(self, pieces: tuple[Evidence, Tensor], generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Hide frames, revise once; return the bound and the imitation, in nats per step that each is of."""
        evidence, weight = pieces
        posterior, dynamics = evidence.probs, self.losses.dynamics  # log-probabilities, here
        n, length = weight.shape
        place = torch.arange(length, device=weight.device)

        def whole(most: int, *shape: int) -> Tensor:
            return torch.randint(most, shape, generator=generator, device=weight.device)

        start, run = whole(length, n, _RUNS, 1), 1 + whole(self.steps, n, _RUNS, 1)
        hidden = ((place >= start) & (place < start + run)).any(dim=1)
        now, lag = whole(length, n, 1), whole(self.steps + 1, n, 1)
        seen = evidence.seen & ~hidden
        known = evidence._replace(probs=posterior.exp(), seen=seen & (place <= now))
        revised = known.informed & (place <= now) & (place > now - lag)
        hindsight = self.smoother.look_back(known)

        drawn = sample_latents(posterior, generator)
        projected = dynamics.action_proj(evidence.actions).float()
        deter, latent, priors, revisions = evidence.deter, evidence.latent, [], []
        for i in range(length):
            deter = dynamics.gru.step((dynamics.latent_proj(latent) + projected[:, i]).float(), deter)
            prior = dynamics.prior(deter)
            smoothed = self.smoother.logits(prior, deter, hindsight[:, i]).log_softmax(dim=-1)
            chosen = revised[:, i, None, None]
            guess = sample_latents(torch.where(chosen, smoothed, prior), generator)
            # Through draws of the prior alone gradients are noise: what they say is not asked for.
            guess = torch.where(chosen, guess, guess.detach())
            latent = torch.where(seen[:, i, None, None], drawn[:, i], guess)
            priors.append(prior)
            revisions.append(smoothed)
        prior, smoothed = torch.stack(priors, dim=1), torch.stack(revisions, dim=1)
        bound = torch.where(seen, latent_nats(posterior, prior), 0.0)
        bound = bound + torch.where(revised, latent_nats(smoothed, prior), 0.0)
        # A bound is a sum over steps, those that the prior filled in for nothing included.
        return masked_mean(bound, weight), masked_mean(latent_nats(posterior, smoothed), weight * revised)
