"""What the RSSM learns from: reconstruction, both sides of the KL, reward, ending (DreamerV3, Hafner et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from dreamenv.nn.precision import autocast
from dreamenv.world_model import Batch

if TYPE_CHECKING:
    from dreamenv.backbones.rssm.model import RSSM

__all__ = ["dynamics_loss", "joint_loss"]

Loss = tuple[Tensor, Mapping[str, Tensor]]


def joint_loss(model: RSSM, batch: Batch) -> Loss:
    """Everything, on frames."""
    config = model.config
    frames = torch.cat((batch.first_frame[:, None], batch.frames), dim=1)  # b t+1 c h w
    b = frames.shape[0]
    flat = rearrange(frames, "b t c h w -> (b t) c h w")
    posterior = rearrange(model.posterior_logits(flat), "(b t) n k -> b t n k", b=b)
    latents = _sample_through(posterior, batch.generator)
    terms, prior = _dynamics_terms(model, batch, latents, posterior.detach())

    kept = _kept(batch)  # a terminal frame may be anything, so nothing is learned from it
    seen = torch.cat((torch.ones_like(kept[:, :1]), kept), dim=1)
    with autocast(flat.device, config.bfloat16 and model.training):
        decoded = model.decoder(model.latent_to_frame(latents.flatten(0, 1))).float() + model.mean_frame
    weight = 1.0 + config.detail * (flat - model.mean_frame).abs()
    errors = (weight * (decoded - flat).square()).flatten(1).sum(dim=-1)
    terms["reconstruction"] = _mean(rearrange(errors, "(b t) -> b t", b=b), seen)
    representation = _mean(_divergence(posterior[:, 1:], prior.detach()), kept)
    terms["representation"] = representation.clamp_min(config.free_nats)
    loss = (
        terms["reconstruction"]
        + config.dynamics_weight * terms["dynamics"].clamp_min(config.free_nats)
        + config.representation_weight * terms["representation"]
        + config.reward_weight * terms["reward"]
        + config.termination_weight * (terms["termination"] + terms["terminal_reward"])
    )
    terms["latent_nats"] = _mean(-(posterior.exp() * posterior).sum(dim=(-2, -1)), seen).detach()
    return loss, terms


def dynamics_loss(model: RSSM, batch: Batch) -> Loss:
    """The recurrence, prior, reward and termination, on cached posteriors."""
    assert batch.features is not None
    config = model.config
    posterior = batch.features.float()  # b t+1 n k
    terms, _ = _dynamics_terms(model, batch, _sample_through(posterior, batch.generator), posterior)
    endings = config.termination_weight * (terms["termination"] + terms["terminal_reward"])
    loss = terms["dynamics"] + config.reward_weight * terms["reward"] + endings
    return loss, terms


def _dynamics_terms(model: RSSM, batch: Batch, latents: Tensor, posterior: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    seen = _hide(model, latents[:, :-1], (*latents[:, :-1].shape[:3], 1), batch.generator)
    with autocast(seen.device, model.config.bfloat16 and model.training):
        new = model.latent_to_memory(seen) + model.action_to_memory(model.action(batch.actions))
        path = model.recurrence(new)  # b t h; path[:, i] has seen actions[:, i], which leads to frames[:, i]
        path = _hide(model, path, path.shape, batch.generator)
        logits, reward, ending = model.prior(path), model.reward(path), model.termination(path)
        terminal_reward = model.terminal_reward(path) if model.terminal_reward else None
    prior = model.log_shares(logits.float())
    kept = _kept(batch)
    ends = functional.binary_cross_entropy_with_logits(
        ending.squeeze(-1).float(), batch.terminated.float(), reduction="none"
    )
    terms = {
        "dynamics": _mean(_divergence(posterior[:, 1:], prior), kept),
        "termination": _mean(ends, batch.weight),
    }
    rewards = model.reward_bins.loss(reward.float(), batch.rewards)
    if terminal_reward is None:
        terms["reward"], terms["terminal_reward"] = _mean(rewards, batch.weight), torch.zeros((), device=path.device)
    else:  # each head is asked about its own steps alone; both means are over all steps, as in log p(r, end)
        at_ends = model.reward_bins.loss(terminal_reward.float(), batch.rewards)
        terms["reward"] = _mean(rewards * ~batch.terminated, batch.weight)
        terms["terminal_reward"] = _mean(at_ends * batch.terminated, batch.weight)
    return terms, prior


def _sample_through(log_probabilities: Tensor, generator: torch.Generator | None) -> Tensor:
    """Sample one-hot latents, with the straight-through gradient of the probabilities (Bengio et al. 2013)."""
    probabilities = log_probabilities.exp()
    classes = probabilities.shape[-1]
    threshold = torch.rand((*probabilities.shape[:-1], 1), generator=generator, device=probabilities.device)
    index = (probabilities.detach().cumsum(dim=-1) < threshold).sum(dim=-1).clamp(max=classes - 1)
    one_hot = functional.one_hot(index, classes).to(probabilities)
    return one_hot + probabilities - probabilities.detach()


def _hide(model: RSSM, values: Tensor, shape: Sequence[int], generator: torch.Generator | None) -> Tensor:
    """Set a random share of the values to 0 while training and scale up the rest (Srivastava et al. 2014)."""
    dropout = model.config.dropout
    if not model.training or dropout == 0:
        return values
    kept = torch.rand(tuple(shape), generator=generator, device=values.device) >= dropout
    return values * kept / (1 - dropout)


def _kept(batch: Batch) -> Tensor:
    return batch.weight * ~batch.terminated


def _divergence(posterior: Tensor, prior: Tensor) -> Tensor:
    """KL(posterior || prior) of log-probabilities (b, t, n, k), summed over variables: (b, t) nats."""
    return (posterior.exp() * (posterior - prior)).sum(dim=(-2, -1))


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum() / weight.sum().clamp_min(1e-8)
