"""A recurrent state-space model with discrete latents: ``h_t = f(h_{t-1}, z_{t-1}, a_t)``, ``z_t ~ p(z | h_t)``.

After Dreamer's RSSM (Hafner et al. 2019, 2021, 2023), arranged for speed on small machines:

- the posterior ``q(z_t | x_t)`` reads one frame alone, so all latents of a recording are known before the recurrence
  runs; a second stage of training reads cached latents and no pixels at all;
- the decoder ``p(x_t | z_t)`` reads the latent alone;
- prior, reward and termination read ``h_t``, which holds the past and the action but not the frame it leads to. So
  the frame on which an episode ends is never needed, and no off-by-one can arise.

``z`` is ``latents`` categorical variables of ``classes`` values each, drawn from the row's own random stream.
State: ``memory`` (b, h), ``latent`` (b, latents) int64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.errors import ConfigError
from dreamenv.nn.actions import ActionVector
from dreamenv.nn.categorical import CategoricalLinear
from dreamenv.nn.pixels import FrameDecoder, FrameEncoder
from dreamenv.nn.precision import Linear, autocast, store_in_bfloat16
from dreamenv.nn.recurrence import GRU
from dreamenv.nn.twohot import TwoHot
from dreamenv.randomness import categorical
from dreamenv.world_model import (
    Batch,
    DataStatistics,
    Imagined,
    Objective,
    Stage,
    State,
    WorldModelSpec,
    check_actions,
    check_first_frame,
    check_frames,
    check_state,
    new_state,
)

__all__ = ["RSSM", "RSSMConfig", "base", "small", "tiny"]

_LATENT_STREAM = 0  # the stream of a step's draw from prior or posterior


@dataclass(frozen=True, kw_only=True)
class RSSMConfig:
    """Settings of the RSSM.

    Attributes:
        memory: width of the recurrent state h.
        latents: categorical variables that z is made of.
        classes: values of each of them.
        hidden: width of the prior's hidden layer; reward and termination, which see few events, have a quarter.
        channels: of the convolutions, finest stage first.
        uniform_mix: share of the uniform distribution mixed into every categorical (DreamerV3: 1%).
        free_nats: the joint stage's KL is not pushed below this many nats per step (DreamerV3: 1).
        dynamics_weight: of the KL that teaches the prior (DreamerV3 begins at 0.5).
        representation_weight: of the KL that keeps the posterior predictable (DreamerV3: 0.1).
        detail: a pixel's squared error counts 1 + detail * |x - mean frame|, so that small moving things are not
            smoothed away against a still background.
        reward_weight: of the reward's cross-entropy.
        termination_weight: of the ending's cross-entropy.
        dropout: share of the latents entering the recurrence, and of the memory its heads read, hidden while training;
            endings are few, and without it their head learns them by heart.
        joint_steps: optimiser steps of the first stage, everything on frames.
        dynamics_steps: optimiser steps of the second stage, recurrence and heads on cached latents.
        joint_batch: windows per step of the first stage.
        joint_length: steps per window of the first stage.
        dynamics_batch: windows per step of the second stage.
        dynamics_length: steps per window of the second stage.
        joint_rate: peak learning rate of the first stage.
        dynamics_rate: peak learning rate of the second stage.
        bfloat16: compute products in bfloat16 while training, where the hardware does so natively.
    """

    memory: int = 512
    latents: int = 32
    classes: int = 16
    hidden: int = 512
    channels: tuple[int, ...] = (32, 64, 96)
    uniform_mix: float = 0.01
    free_nats: float = 1.0
    dynamics_weight: float = 0.5
    representation_weight: float = 0.1
    detail: float = 20.0
    reward_weight: float = 1.0
    termination_weight: float = 5.0
    dropout: float = 0.2
    joint_steps: int = 1200
    dynamics_steps: int = 1000
    joint_batch: int = 12
    joint_length: int = 16
    dynamics_batch: int = 32
    dynamics_length: int = 64
    joint_rate: float = 6e-4
    dynamics_rate: float = 6e-4
    bfloat16: bool = True

    def __post_init__(self) -> None:
        for name in ("memory", "latents", "hidden", "joint_steps", "dynamics_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if self.classes < 2:
            raise ConfigError(f"classes must be at least 2, not {self.classes}.")
        for name in ("uniform_mix", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must be in [0, 1), not {getattr(self, name)}.")
        if not self.channels or min(self.channels) < 1:
            raise ConfigError(f"channels must be positive sizes, finest stage first, not {self.channels}.")

    def build(self, spec: WorldModelSpec) -> RSSM:
        """Make the untrained model."""
        return RSSM(self, spec)


def tiny() -> RSSMConfig:
    """For tests: trains in seconds."""
    return RSSMConfig(
        memory=64, latents=8, classes=8, hidden=64, channels=(16, 24, 32), joint_steps=200, dynamics_steps=200,
        joint_batch=8, joint_length=12, dynamics_batch=16, dynamics_length=24, joint_rate=1e-3, dynamics_rate=1e-3,
    )  # fmt: skip


def small() -> RSSMConfig:
    """For two CPU cores: a 64x64 world in minutes."""
    return RSSMConfig()


def base() -> RSSMConfig:
    """For a GPU: four times the width, more steps."""
    return RSSMConfig(
        memory=1024, latents=32, classes=32, hidden=1024, channels=(128, 256, 384), joint_steps=20_000,
        dynamics_steps=20_000, joint_batch=32, joint_length=48, dynamics_batch=128, joint_rate=3e-4, dynamics_rate=3e-4,
    )  # fmt: skip


class RSSM(nn.Module):
    """The model. Parameters only; memory travels in the state."""

    mean_frame: Tensor

    def __init__(self, config: RSSMConfig, spec: WorldModelSpec) -> None:
        super().__init__()
        self.config, self.spec = config, spec
        width = config.latents * config.classes
        self.embedding_size = config.memory + width
        self.register_buffer("mean_frame", torch.full(spec.frame_shape, 0.5))
        self.encoder = FrameEncoder(spec.frame_shape, config.channels)
        self.posterior = Linear(self.encoder.features, width)
        self.decoder = FrameDecoder(spec.frame_shape, config.channels)
        self.latent_to_frame = CategoricalLinear(config.latents, config.classes, self.decoder.features)
        self.action = ActionVector(spec.action_space)
        self.latent_to_memory = CategoricalLinear(config.latents, config.classes, 3 * config.memory)
        self.action_to_memory = Linear(self.action.size, 3 * config.memory, bias=False)
        self.recurrence = GRU(config.memory)
        self.prior = _head(config.memory, config.hidden, width)
        self.reward_bins = TwoHot()
        self.reward = _head(config.memory, config.hidden // 4, self.reward_bins.bins)
        self.termination = _head(config.memory, config.hidden // 4, 1)

    # The contract

    def start(self, first_frame: Tensor, seed: Tensor) -> State:
        """Remember nothing but the latent of the first frame."""
        check_first_frame(self.spec, first_frame, seed)
        memory = torch.zeros(first_frame.shape[0], self.config.memory, device=first_frame.device)
        state = new_state(seed, {"memory": memory})
        state["latent"] = self._draw(self.posterior_logits(first_frame), state)
        return _stepped(state)

    def observe(self, state: State, actions: Tensor, frames: Tensor) -> State:
        """Run the recurrence over what happened."""
        check_actions(self.spec, actions)
        check_frames(self.spec, actions, frames)
        check_state(state, actions, ("memory", "latent"))
        b, t = actions.shape[:2]
        logits = self.posterior_logits(rearrange(frames, "b t c h w -> (b t) c h w"))
        logits = rearrange(logits, "(b t) n k -> b t n k", b=b)
        vectors = self.action(actions)
        state = state.copy()
        for i in range(t):
            state["memory"] = self._step_memory(state, vectors[:, i])
            state["latent"] = self._draw(logits[:, i], state)
            state = _stepped(state)
        return state

    def imagine(self, state: State, actions: Tensor, *, decode: bool = True) -> tuple[Imagined, State]:
        """Draw each next latent from the prior. ``uncertainty`` is the prior's entropy per variable, in nats."""
        check_actions(self.spec, actions)
        check_state(state, actions, ("memory", "latent"))
        vectors = self.action(actions)
        state = state.copy()
        memories, latents, doubts = [], [], []
        for i in range(actions.shape[1]):
            memory = self._step_memory(state, vectors[:, i])
            logits = self._mix(self.prior(memory))
            state["memory"] = memory
            state["latent"] = self._draw(logits, state)
            state = _stepped(state)
            memories.append(memory)
            latents.append(state["latent"])
            doubts.append(-(logits.exp() * logits).sum(dim=-1).mean(dim=-1))
        path = torch.stack(memories, dim=1)  # b k h
        imagined = Imagined(
            frames=self._decode(torch.stack(latents, dim=1)) if decode else None,
            rewards=self.reward_bins.mean(self.reward(path)),
            termination=self.termination(path).squeeze(-1).sigmoid(),
            uncertainty=torch.stack(doubts, dim=1),
        )
        return imagined, state

    def embed(self, state: State) -> Tensor:
        """Memory and one-hot latent, (b, memory + latents * classes)."""
        return torch.cat((state["memory"], self._one_hot(state["latent"])), dim=-1)

    def calibrate(self, statistics: DataStatistics) -> None:
        """Take the mean frame, the range of rewards and the rate of endings from the data."""
        self.mean_frame.copy_(statistics.frame_mean)
        self.reward_bins.set_range(statistics.reward_min, statistics.reward_max)
        rate = min(max(statistics.termination_rate, 1e-5), 0.5)
        last = self.termination[-1]
        assert isinstance(last, nn.Linear)
        # Starting from the base rate, the head spends no training on learning that endings are rare.
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, math.log(rate / (1 - rate)))

    def store_in_bfloat16(self) -> None:
        """Round the weights for faster dreaming; this model can then no longer be trained."""
        store_in_bfloat16(self)

    def stages(self) -> Sequence[Stage]:
        """Everything jointly on frames, then the recurrence and heads on cached latents."""
        config = self.config
        dynamics = [
            parameter
            for module in (
                self.latent_to_memory,
                self.action_to_memory,
                self.recurrence,
                self.prior,
                self.reward,
                self.termination,
            )
            for parameter in module.parameters()
        ]
        return (
            Stage(
                name="joint",
                objectives=[Objective("joint", list(self.parameters()), self.joint_loss)],
                steps=config.joint_steps,
                batch_size=config.joint_batch,
                sequence_length=config.joint_length,
                learning_rate=config.joint_rate,
            ),
            Stage(
                name="dynamics",
                objectives=[Objective("dynamics", dynamics, self.dynamics_loss)],
                steps=config.dynamics_steps,
                batch_size=config.dynamics_batch,
                sequence_length=config.dynamics_length,
                learning_rate=config.dynamics_rate,
                precompute=self.posterior_logits,
            ),
        )

    # Losses

    def joint_loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Reconstruction, both sides of the KL, reward and termination."""
        config = self.config
        frames = torch.cat((batch.first_frame[:, None], batch.frames), dim=1)  # b t+1 c h w
        b = frames.shape[0]
        flat = rearrange(frames, "b t c h w -> (b t) c h w")
        posterior = rearrange(self.posterior_logits(flat), "(b t) n k -> b t n k", b=b)
        latents = self._sample_through(posterior, batch.generator)
        terms, prior = self._dynamics_terms(batch, latents, posterior.detach())

        kept = _kept(batch)  # a terminal frame may be anything, so nothing is learned from it
        seen = torch.cat((torch.ones_like(kept[:, :1]), kept), dim=1)
        with autocast(flat.device, self._low):
            decoded = self.decoder(self.latent_to_frame(latents.flatten(0, 1))).float() + self.mean_frame
        weight = 1.0 + config.detail * (flat - self.mean_frame).abs()
        errors = (weight * (decoded - flat).square()).flatten(1).sum(dim=-1)
        terms["reconstruction"] = _mean(rearrange(errors, "(b t) -> b t", b=b), seen)
        representation = _mean(_divergence(posterior[:, 1:], prior.detach()), kept)
        terms["representation"] = representation.clamp_min(config.free_nats)
        loss = (
            terms["reconstruction"]
            + config.dynamics_weight * terms["dynamics"].clamp_min(config.free_nats)
            + config.representation_weight * terms["representation"]
            + config.reward_weight * terms["reward"]
            + config.termination_weight * terms["termination"]
        )
        terms["latent_nats"] = _mean(-(posterior.exp() * posterior).sum(dim=(-2, -1)), seen).detach()
        return loss, terms

    def dynamics_loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The recurrence, prior, reward and termination, on cached posteriors."""
        assert batch.features is not None
        posterior = batch.features.float()  # b t+1 n k
        latents = self._sample_through(posterior, batch.generator)
        terms, _ = self._dynamics_terms(batch, latents, posterior)
        config = self.config
        loss = (
            terms["dynamics"]
            + config.reward_weight * terms["reward"]
            + config.termination_weight * terms["termination"]
        )
        return loss, terms

    def _dynamics_terms(self, batch: Batch, latents: Tensor, posterior: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        seen = self._hide(latents[:, :-1], (*latents[:, :-1].shape[:3], 1), batch.generator)
        with autocast(seen.device, self._low):
            new = self.latent_to_memory(seen) + self.action_to_memory(self.action(batch.actions))
            path = self.recurrence(new)  # b t h; path[:, i] has seen actions[:, i], which leads to frames[:, i]
            path = self._hide(path, path.shape, batch.generator)
            prior, reward, ending = self.prior(path), self.reward(path), self.termination(path)
        prior = self._mix(prior.float())
        kept = _kept(batch)
        ends = functional.binary_cross_entropy_with_logits(
            ending.squeeze(-1).float(), batch.terminated.float(), reduction="none"
        )
        terms = {
            "dynamics": _mean(_divergence(posterior[:, 1:], prior), kept),
            "reward": _mean(self.reward_bins.loss(reward.float(), batch.rewards), batch.weight),
            "termination": _mean(ends, batch.weight),
        }
        return terms, prior

    # Pieces

    def posterior_logits(self, frames: Tensor) -> Tensor:
        """Frames (n, c, h, w) to normalised log-probabilities (n, latents, classes)."""
        with autocast(frames.device, self._low):
            logits = self.posterior(self.encoder(frames))
        return self._mix(logits.float())

    def _mix(self, logits: Tensor) -> Tensor:
        """Flat logits (..., latents * classes) to log-probabilities (..., latents, classes) with the uniform share."""
        config = self.config
        shares: Tensor = logits.unflatten(-1, (config.latents, config.classes)).softmax(dim=-1)
        return ((1 - config.uniform_mix) * shares + config.uniform_mix / config.classes).log()

    def _draw(self, log_probabilities: Tensor, state: State) -> Tensor:
        return categorical(
            log_probabilities, state["temperature"], state["rng_key"], state["rng_counter"], stream=_LATENT_STREAM
        )

    def _sample_through(self, log_probabilities: Tensor, generator: torch.Generator | None) -> Tensor:
        """Sample one-hot latents, with the straight-through gradient of the probabilities (Bengio et al. 2013)."""
        probabilities = log_probabilities.exp()
        threshold = torch.rand((*probabilities.shape[:-1], 1), generator=generator, device=probabilities.device)
        index = (probabilities.detach().cumsum(dim=-1) < threshold).sum(dim=-1).clamp(max=self.config.classes - 1)
        one_hot = functional.one_hot(index, self.config.classes).to(probabilities)
        return one_hot + probabilities - probabilities.detach()

    def _hide(self, values: Tensor, shape: Sequence[int], generator: torch.Generator | None) -> Tensor:
        """Set a random share of the values to 0 while training and scale up the rest (Srivastava et al. 2014)."""
        if not self.training or self.config.dropout == 0:
            return values
        kept = torch.rand(tuple(shape), generator=generator, device=values.device) >= self.config.dropout
        return values * kept / (1 - self.config.dropout)

    def _one_hot(self, latent: Tensor) -> Tensor:
        width = self.config.latents * self.config.classes
        zeros = torch.zeros(*latent.shape[:-1], width, device=latent.device)
        return zeros.scatter_(-1, latent + self.latent_to_memory.offsets, 1.0)

    def _step_memory(self, state: State, action: Tensor) -> Tensor:
        new = self.latent_to_memory.look_up(state["latent"]) + self.action_to_memory(action)
        return self.recurrence.step(new, state["memory"])

    def _decode(self, latents: Tensor) -> Tensor:
        """Class numbers (b, k, n) to frames (b, k, c, h, w) in [0, 1]."""
        difference: Tensor = self.decoder(self.latent_to_frame.look_up(latents.flatten(0, 1)))
        frames = (difference + self.mean_frame).clamp_(0.0, 1.0)
        return rearrange(frames, "(b k) c h w -> b k c h w", b=latents.shape[0])

    @property
    def _low(self) -> bool:
        return self.config.bfloat16 and self.training


def _head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(Linear(inputs, hidden), nn.LayerNorm(hidden), nn.SiLU(), Linear(hidden, outputs))


def _stepped(state: State) -> State:
    state["rng_counter"] = state["rng_counter"] + 1
    return state


def _kept(batch: Batch) -> Tensor:
    return batch.weight * ~batch.terminated


def _divergence(posterior: Tensor, prior: Tensor) -> Tensor:
    """KL(posterior || prior) of log-probabilities (b, t, n, k), summed over variables: (b, t) nats."""
    return (posterior.exp() * (posterior - prior)).sum(dim=(-2, -1))


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum() / weight.sum().clamp_min(1e-8)
