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
from collections.abc import Sequence
from functools import partial

import torch
from einops import rearrange
from torch import Tensor, nn

from dreamenv.backbones.rssm.config import RSSMConfig
from dreamenv.backbones.rssm.losses import dynamics_loss, joint_loss
from dreamenv.nn.actions import ActionVector
from dreamenv.nn.categorical import CategoricalLinear
from dreamenv.nn.pixels import FrameDecoder, FrameEncoder
from dreamenv.nn.precision import Linear, autocast, store_in_bfloat16
from dreamenv.nn.recurrence import GRU
from dreamenv.nn.twohot import TwoHot
from dreamenv.randomness import categorical
from dreamenv.world_model import (
    DataStatistics,
    Imagined,
    Objective,
    Stage,
    State,
    WorldModel,
    WorldModelSpec,
    check_actions,
    check_first_frame,
    check_frames,
    check_state,
    new_state,
)

__all__ = ["RSSM"]

_LEAST_SHARE = 1e-4  # of a reward that is not the usual one, before training
_LATENT_STREAM = 0  # the stream of a step's draw from prior or posterior


class RSSM(WorldModel):
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
        self.terminal_reward = (
            _head(config.memory, config.hidden // 4, self.reward_bins.bins) if config.terminal_reward else None
        )

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
            logits = self.log_shares(self.prior(memory))
            state["memory"] = memory
            state["latent"] = self._draw(logits, state)
            state = _stepped(state)
            memories.append(memory)
            latents.append(state["latent"])
            doubts.append((logits.exp() * logits).sum(dim=(-2, -1)) / -self.config.latents)
        path = torch.stack(memories, dim=1)  # b k h
        imagined = Imagined(
            frames=self._decode(torch.stack(latents, dim=1)) if decode else None,
            rewards=self.reward_bins.mean(self.reward(path)),
            termination=self.termination(path).squeeze(-1).sigmoid(),
            uncertainty=torch.stack(doubts, dim=1),
            terminal_rewards=self.reward_bins.mean(self.terminal_reward(path)) if self.terminal_reward else None,
        )
        return imagined, state

    def embed(self, state: State) -> Tensor:
        """Memory and one-hot latent, (b, memory + latents * classes)."""
        return torch.cat((state["memory"], self._one_hot(state["latent"])), dim=-1)

    def reconstruct(self, frames: Tensor) -> Tensor:
        """Encode and decode, by the likeliest latents."""
        latents = self.posterior_logits(frames).argmax(dim=-1)
        return self._decode(latents[:, None])[:, 0]

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
        if self.terminal_reward is not None:
            # Neither head hears of the other's steps; what it says of them should be nothing out of the ordinary.
            usual = self.reward_bins.encode(torch.tensor(statistics.reward_mean))
            for head in (self.reward, self.terminal_reward):
                last = head[-1]
                assert isinstance(last, nn.Linear)
                nn.init.zeros_(last.weight)
                last.bias.data.copy_((usual + _LEAST_SHARE).log())

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
                self.terminal_reward or nn.Identity(),
            )
            for parameter in module.parameters()
        ]
        return (
            Stage(
                name="joint",
                objectives=[Objective("joint", list(self.parameters()), partial(joint_loss, self))],
                steps=config.joint_steps,
                batch_size=config.joint_batch,
                sequence_length=config.joint_length,
                learning_rate=config.joint_rate,
            ),
            Stage(
                name="dynamics",
                objectives=[Objective("dynamics", dynamics, partial(dynamics_loss, self))],
                steps=config.dynamics_steps,
                batch_size=config.dynamics_batch,
                sequence_length=config.dynamics_length,
                learning_rate=config.dynamics_rate,
                precompute=self.posterior_logits,
            ),
        )

    # Pieces

    def posterior_logits(self, frames: Tensor) -> Tensor:
        """Frames (n, c, h, w) to normalised log-probabilities (n, latents, classes)."""
        with autocast(frames.device, self.config.bfloat16 and self.training):
            logits = self.posterior(self.encoder(frames))
        return self.log_shares(logits.float())

    def log_shares(self, logits: Tensor) -> Tensor:
        """Flat logits (..., latents * classes) to log-probabilities (..., latents, classes) with the uniform share."""
        config = self.config
        shares: Tensor = logits.unflatten(-1, (config.latents, config.classes)).softmax(dim=-1)
        return ((1 - config.uniform_mix) * shares + config.uniform_mix / config.classes).log()

    def _draw(self, log_probabilities: Tensor, state: State) -> Tensor:
        return categorical(
            log_probabilities, state["temperature"], state["rng_key"], state["rng_counter"], stream=_LATENT_STREAM
        )

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


def _head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(Linear(inputs, hidden), nn.LayerNorm(hidden), nn.SiLU(), Linear(hidden, outputs))


def _stepped(state: State) -> State:
    state["rng_counter"] = state["rng_counter"] + 1
    return state
