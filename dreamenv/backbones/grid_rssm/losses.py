"""What the grid RSSM learns from: reconstruction and rate; then the likelihood of codes, reward and termination."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dreamenv.backbones.grid_rssm.memory import GridMemory
from dreamenv.backbones.grid_rssm.prior import GridPrior
from dreamenv.backbones.grid_rssm.training import GridRSSMTraining
from dreamenv.codecs.fsq import FSQAutoencoder, disturb
from dreamenv.codecs.fsq_loss import fsq_loss
from dreamenv.codecs.rate import CodeRate
from dreamenv.heads.reward_termination import RewardTerminationHead
from dreamenv.nn.actions import ActionVector
from dreamenv.nn.dropout import dropout
from dreamenv.nn.precision import autocast
from dreamenv.world_model import Batch

__all__ = ["GridRSSMLoss"]

Loss = tuple[Tensor, dict[str, Tensor]]


@dataclass(frozen=True)
class GridRSSMLoss:
    """The losses of both stages, of the networks that they train."""

    config: GridRSSMTraining
    autoencoder: FSQAutoencoder
    rate: CodeRate | None
    action: ActionVector
    memory: GridMemory
    prior: GridPrior
    head: RewardTerminationHead

    def codec(self, batch: Batch) -> Loss:
        """Reconstruction and rate of frames, but for those that end an episode, which may be anything."""
        config, training = self.config, self.autoencoder.training
        with autocast(batch.first_frame.device, config.bfloat16 and training):
            loss, terms, _ = fsq_loss(
                self.autoencoder,
                self.rate,
                batch,
                foreground_weight=config.foreground_weight,
                edge_weight=config.edge_weight,
                code_noise=config.code_noise if training else 0.0,
                rate_weight=config.rate_weight,
            )
        return loss, terms

    def dynamics(self, batch: Batch) -> Loss:
        """Memory, prior and head, on cached codes."""
        assert batch.features is not None
        codes = batch.features.long()  # b t+1 s y x
        config, training = self.config, self.memory.training
        before = self.autoencoder.values(
            disturb(codes[:, :-1], self.autoencoder.levels, config.code_noise if training else 0.0, batch.generator)
        )
        two = torch.cat((before, torch.cat((before[:, :1], before[:, :-1]), dim=1)), dim=2)  # as at a dream's start
        after = codes[:, 1:].flatten(0, 1)
        with autocast(before.device, config.bfloat16 and training):
            path = self.memory(before, self.action(batch.actions))  # b t d
            path = dropout(path, config.dropout if training else 0.0, batch.generator)
            head, terms = self.head.loss(path, batch)
            learned = self._learned(batch)
            nats = self._nats(path.flatten(0, 1)[learned], two.flatten(0, 1)[learned], after[learned], batch.generator)
        weight = (batch.weight * ~batch.terminated).flatten()[learned]
        terms["prior"] = (nats * weight).sum() / weight.sum().clamp_min(1e-8)
        places = self.autoencoder.grid[1] * self.autoencoder.grid[2]
        return head + terms["prior"] / places, terms

    def _learned(self, batch: Batch) -> Tensor:
        """Return which of a batch's steps the prior learns, all of them when it is judged."""
        steps, share = batch.weight.numel(), self.config.prior_share if self.memory.training else 1.0
        drawn = torch.randperm(steps, generator=batch.generator, device=batch.weight.device)
        return drawn[: max(1, round(steps * share))]

    def _nats(self, deter: Tensor, before: Tensor, codes: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return an unbiased estimate of the codes' negative log-likelihood, (n,): one group's, drawn per row."""
        prior = self.prior
        group = torch.randint(prior.groups, (len(codes),), generator=generator, device=codes.device)
        nats = prior.nats(prior.context(deter, before), codes, self.autoencoder.values(codes), group)
        return nats * prior.groups
