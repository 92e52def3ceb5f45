"""What the RSSM learns from: reconstruction, both sides of the KL, reward, termination (DreamerV3, Hafner et al. 2023).

Letters: ``v`` variables of ``k`` classes each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dreamenv.backbones.rssm.autoencoder import CategoricalAutoencoder
from dreamenv.backbones.rssm.dynamics import LatentDynamics
from dreamenv.backbones.rssm.prompting import PromptConditioning
from dreamenv.backbones.rssm.training import RSSMTraining
from dreamenv.heads.reward_termination import RewardTerminationHead
from dreamenv.nn.actions import ActionVector
from dreamenv.nn.dropout import dropout
from dreamenv.nn.precision import autocast
from dreamenv.world_model import Batch

__all__ = ["Loss", "RSSMLoss", "latent_nats", "masked_mean", "sample_latents"]

Loss = tuple[Tensor, dict[str, Tensor]]


@dataclass(frozen=True)
class RSSMLoss:
    """The losses of both stages, of the networks that they train."""

    config: RSSMTraining
    autoencoder: CategoricalAutoencoder
    action: ActionVector
    dynamics: LatentDynamics
    head: RewardTerminationHead
    prompting: PromptConditioning | None = None

    def joint(self, batch: Batch) -> Loss:
        """Everything, on frames."""
        config = self.config
        frames = torch.cat((batch.first_frame[:, None], batch.frames), dim=1)  # b t+1 c h w
        b, flat, bfloat16 = frames.shape[0], frames.flatten(0, 1), config.bfloat16 and self.autoencoder.training
        with autocast(frames.device, bfloat16):
            posterior = self.autoencoder.encode(flat).unflatten(0, (b, -1))  # b t+1 v k
        latents = sample_latents(posterior, batch.generator)
        loss, terms, prior = self._dynamics(
            batch, latents, posterior.detach(), config.dynamics_weight, config.free_nats
        )

        kept = _kept(batch)  # a terminal frame may be anything, so nothing is learned from it
        seen = torch.cat((torch.ones_like(kept[:, :1]), kept), dim=1)
        with autocast(frames.device, bfloat16):
            decoded = self.autoencoder.reconstruct(latents.flatten(0, 1))
        foreground = 1.0 + config.foreground_weight * (flat - self.autoencoder.mean_frame).abs()
        errors = (foreground * (decoded - flat).square()).flatten(1).sum(dim=-1)
        terms["reconstruction"] = masked_mean(errors.unflatten(0, (b, -1)), seen)
        representation = masked_mean(latent_nats(posterior[:, 1:], prior.detach()), kept)
        terms["representation"] = representation.clamp_min(config.free_nats)
        terms["latent_nats"] = masked_mean(-(posterior.exp() * posterior).sum(dim=(-2, -1)), seen).detach()
        return loss + terms["reconstruction"] + config.representation_weight * terms["representation"], terms

    def posterior(self, frames: Tensor) -> Tensor:
        """Encode frames (n, c, h, w) for `dynamics_only`, in the precision of training: log-probabilities (n, v, k)."""
        with autocast(frames.device, self.config.bfloat16):
            return self.autoencoder.encode(frames)

    def dynamics_only(self, batch: Batch) -> Loss:
        """Recurrence, prior and head, on cached posteriors."""
        assert batch.features is not None
        posterior = batch.features.float()  # b t+1 v k
        loss, terms, _ = self._dynamics(batch, sample_latents(posterior, batch.generator), posterior, 1.0, 0.0)
        return loss, terms

    def _dynamics(
        self, batch: Batch, latents: Tensor, posterior: Tensor, weight: float, free_nats: float
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Return what to minimise of recurrence, prior and head, its terms, and the prior (b, t, v, k)."""
        before, share = latents[:, :-1], self.config.dropout if self.dynamics.training else 0.0
        before = dropout(before, share, batch.generator, (*before.shape[:3], 1))
        with autocast(before.device, self.config.bfloat16 and self.dynamics.training):
            path = self.dynamics(before, self.action(batch.actions))  # b t d
            if self.prompting is not None:
                path = self._prompted(self.prompting, batch, before, path)
            path = dropout(path, share, batch.generator)
            prior = self.dynamics.prior(path)
            head, terms = self.head.loss(path, batch)
        terms["dynamics"] = masked_mean(latent_nats(posterior[:, 1:], prior), _kept(batch))
        return head + weight * terms["dynamics"].clamp_min(free_nats), terms, prior

    def _prompted(self, prompting: PromptConditioning, batch: Batch, before: Tensor, path: Tensor) -> Tensor:
        """Return what prior and head read of every step under its prompt, (b, t, d), given the memory's path."""
        dynamics, action = self.dynamics, self.action(batch.actions)
        hashes = batch.prompts
        if hashes is None:
            hashes = torch.zeros((*path.shape[:2], prompting.encoder.tokens), dtype=torch.int64, device=path.device)
        given = prompting.conditions(hashes, action, dynamics.action_proj(action))
        if dynamics.training:
            given = prompting.drop(given, batch.generator)
        memory = torch.cat((torch.zeros_like(path[:, :1]), path[:, :-1]), dim=1)
        inputs = (dynamics.latent_proj(before) + prompting.inputs(memory, given)).float()
        features: Tensor = dynamics.gru.step(inputs.flatten(0, 1), memory.flatten(0, 1)).unflatten(0, path.shape[:2])
        return features


def sample_latents(log_probs: Tensor, generator: torch.Generator | None) -> Tensor:
    """Sample one-hot latents, with the straight-through gradient of the probabilities (Bengio et al. 2013)."""
    probs = log_probs.exp()
    classes = probs.shape[-1]
    threshold = torch.rand((*probs.shape[:-1], 1), generator=generator, device=probs.device)
    index = (probs.detach().cumsum(dim=-1) < threshold).sum(dim=-1).clamp(max=classes - 1)
    return functional.one_hot(index, classes).to(probs) + probs - probs.detach()


def _kept(batch: Batch) -> Tensor:
    return batch.weight * ~batch.terminated


def latent_nats(posterior: Tensor, prior: Tensor) -> Tensor:
    """Return KL(posterior || prior) of log-probabilities (b, t, v, k), summed over variables: (b, t) nats."""
    return (posterior.exp() * (posterior - prior)).sum(dim=(-2, -1))


def masked_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Return the mean of values, each counted by its weight; 0 where all of these are 0."""
    return (values * weight).sum() / weight.sum().clamp_min(1e-8)
