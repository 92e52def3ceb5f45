"""A recurrent state-space model with discrete latents: ``h_t = f(h_{t-1}, z_{t-1}, a_t)``, ``z_t ~ p(z | h_t)``.

After Dreamer's RSSM (Hafner et al. 2019, 2021, 2023), arranged for speed on small machines:

- the posterior ``q(z_t | x_t)`` reads one frame alone, so all latents of a recording are known before the recurrence
  runs; a second stage of training reads cached latents and no pixels at all;
- the decoder ``p(x_t | z_t)`` reads the latent alone;
- prior, reward and termination read ``h_t``, which holds the past and the action but not the frame it leads to. So
  the frame on which an episode ends is never needed, and no off-by-one can arise.

``z`` is ``stoch`` categorical variables of ``classes`` values each, sampled from the row's own random stream.
State: ``deter`` (b, deter), which is h, and ``stoch`` (b, stoch) int64, which is z; where the world takes prompts, also
``prompt`` (b, words) int64 (`dreamenv.backbones.rssm.prompting`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from dreamenv.backbones.rssm.autoencoder import CategoricalAutoencoder
from dreamenv.backbones.rssm.dynamics import LatentDynamics
from dreamenv.backbones.rssm.losses import RSSMLoss, latent_nats
from dreamenv.backbones.rssm.pixel_likelihood import pixel_nats
from dreamenv.backbones.rssm.prompting import Conditions, PromptConditioning, PromptConfig
from dreamenv.backbones.rssm.stream import RowStreams, updated_state
from dreamenv.backbones.rssm.training import RSSMTraining
from dreamenv.errors import ConfigError, PromptError
from dreamenv.heads.reward_termination import RewardTerminationHeadConfig
from dreamenv.nn.actions import ActionVector
from dreamenv.nn.precision import store_in_bfloat16
from dreamenv.nn.recurrence import MOST_HIDDEN
from dreamenv.nn.text import BagOfWords
from dreamenv.parts import ADDED_LATER
from dreamenv.text import MOST_HASH
from dreamenv.world_model import (
    BackboneConfig,
    DataStatistics,
    Imagined,
    Stage,
    State,
    StateBounds,
    WorldModel,
    WorldModelSpec,
    check_actions,
    check_first_frame,
    check_frames,
    check_state,
    new_state,
)

__all__ = ["RSSM", "PromptedRSSM", "RSSMConfig"]

_LEAST_LOG = -80.0  # of a probability in float32 that counts for nothing


@dataclass(frozen=True, kw_only=True)
class RSSMConfig(BackboneConfig, kind="rssm"):
    """Settings of the RSSM, by DreamerV3's names.

    Attributes:
        deter: width of the recurrent state h.
        stoch: categorical variables that z is made of.
        classes: values of each of them.
        hidden: width of the prior's hidden layer.
        channels: of the convolutions, finest stage first.
        unimix: share of the uniform distribution mixed into every categorical (DreamerV3: 1%).
        head: of reward and termination, which see few events and are the narrower.
        prompt: lets a prompt act next to the action; None takes no prompts.
        training: the stages.

    Raises:
        ConfigError: a size or share that cannot be.
    """

    deter: int = 512
    stoch: int = 32
    classes: int = 16
    hidden: int = 512
    channels: tuple[int, ...] = (32, 64, 96)
    unimix: float = 0.01
    head: RewardTerminationHeadConfig = RewardTerminationHeadConfig()
    prompt: PromptConfig | None = field(default=None, metadata=ADDED_LATER)
    training: RSSMTraining = RSSMTraining()

    def __post_init__(self) -> None:
        for name in ("deter", "stoch", "hidden"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if self.classes < 2:
            raise ConfigError(f"classes must be at least 2, not {self.classes}.")
        if not 0 <= self.unimix < 1:
            raise ConfigError(f"unimix must be in [0, 1), not {self.unimix}.")
        if not self.channels or min(self.channels) < 1:
            raise ConfigError(f"channels must be positive sizes, finest stage first, not {self.channels}.")

    def build(self, spec: WorldModelSpec) -> RSSM:
        """See `BackboneConfig`."""
        return RSSM(self, spec) if self.prompt is None else PromptedRSSM(self, spec)


class RSSM(WorldModel):
    """The model. Parameters only; memory travels in the state.

    Args:
        config: its settings.
        spec: what it shows and accepts.

    Raises:
        ConfigError: a frame whose sides are no multiples of 4, or actions that no vector stands for.
    """

    estimates_uncertainty = True
    memory: tuple[str, ...] = ("deter", "stoch")  # entries of a state
    score_of: Literal["pixels"] = "pixels"
    score_is: Literal["bound"] = "bound"

    def __init__(self, config: RSSMConfig, spec: WorldModelSpec) -> None:
        super().__init__()
        self.config, self.spec = config, spec
        latent = {"variables": config.stoch, "classes": config.classes}
        self.autoencoder = CategoricalAutoencoder(spec.frame_shape, config.channels, **latent, unimix=config.unimix)
        self.action = ActionVector(spec.action_space)
        self.dynamics = LatentDynamics(self.action.size, config.deter, config.hidden, **latent, unimix=config.unimix)
        self.head = config.head.build(config.deter)
        self.prompting: PromptConditioning | None = None
        if config.prompt is not None:
            self.prompting = PromptConditioning(config.prompt, self.action.size, config.deter)
        self.embedding_size = config.deter + config.stoch * config.classes

    # The contract

    def start(self, first_frame: Tensor, seed: Tensor) -> State:
        """Remember nothing but the latent of the first frame."""
        check_first_frame(self.spec, first_frame, seed)
        empty = {"deter": torch.zeros(len(first_frame), self.config.deter, device=first_frame.device)}
        if self.prompting is not None:
            tokens = self.prompting.encoder.tokens
            empty["prompt"] = torch.zeros((len(first_frame), tokens), dtype=torch.int64, device=first_frame.device)
        state = new_state(seed, empty)
        stream = RowStreams.of(state)
        return updated_state(state, stream.next(), stoch=stream.draw(self.autoencoder.encode(first_frame)))

    def observe(self, state: State, actions: Tensor, frames: Tensor) -> State:
        """Run the recurrence over what happened."""
        check_actions(self.spec, actions)
        check_frames(self.spec, actions, frames)
        check_state(state, actions, self.memory)
        posterior = self.autoencoder.encode(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        projected = self.dynamics.project(self.action, actions)
        deter, latent, stream = state["deter"], state["stoch"], RowStreams.of(state)
        path = []
        for i in range(actions.shape[1]):
            deter = self.dynamics.step(deter, latent, projected[:, i])
            latent = stream.draw(posterior[:, i])
            stream = stream.next()
            path.append((deter, latent))
        return self._after(state, stream, actions, path, posterior)

    def imagine(self, state: State, actions: Tensor, *, decode: bool = True) -> tuple[Imagined, State]:
        """Draw each next latent from the prior. ``uncertainty`` is the prior's entropy per variable, in nats."""
        check_actions(self.spec, actions)
        check_state(state, actions, self.memory)
        projected = self.dynamics.project(self.action, actions)
        given = self._conditions(state, actions, projected)
        # Plain tensors from here on: at a few rows, every call counts.
        deter, latent, stream = state["deter"], state["stoch"], RowStreams.of(state)
        path, read, entropies = [], [], []
        for i in range(actions.shape[1]):
            deter, features, logits = self._step(deter, latent, projected[:, i], given[i])
            probs, prior = self.dynamics.probs(logits)
            entropy = (probs * prior).sum(dim=(-2, -1)) / -self.config.stoch
            latent = stream.draw(prior)
            stream = stream.next()
            path.append((deter, latent))
            read.append(features)
            entropies.append(entropy)
        predicted = self.head(_stack(read))
        imagined = Imagined(
            frames=self._decode(_stack([latent for _, latent in path])) if decode else None,
            rewards=predicted.rewards,
            termination=predicted.termination,
            uncertainty=_stack(entropies),
            terminal_rewards=predicted.terminal_rewards,
        )
        return imagined, self._after(state, stream, actions, path, None)

    def score(self, state: State, actions: Tensor, frames: Tensor) -> Tensor:
        """See `SupportsScore`: the variational bound of one sample of each latent, of the row's own stream.

        That is the divergence of the posterior from the prior, and the pixels' cost given the latent
        (`dreamenv.backbones.rssm.pixel_likelihood`).
        """
        check_actions(self.spec, actions)
        check_frames(self.spec, actions, frames)
        check_state(state, actions, self.memory)
        posterior = self.autoencoder.encode(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        projected = self.dynamics.project(self.action, actions)
        deter, latent, stream = state["deter"], state["stoch"], RowStreams.of(state)
        stream = stream._replace(temperature=torch.ones_like(stream.temperature))  # a bound needs the posterior's own
        priors, latents, given = [], [], self._conditions(state, actions, projected)
        for i in range(actions.shape[1]):
            deter, _, logits = self._step(deter, latent, projected[:, i], given[i])
            priors.append(self.dynamics.probs(logits)[1])
            latent = stream.draw(posterior[:, i])
            stream = stream.next()
            latents.append(latent)
        decoded = self._decode(_stack(latents))
        # A class that is never drawn costs nothing, even where the logarithm of its probability is infinite.
        return latent_nats(posterior.clamp_min(_LEAST_LOG), _stack(priors)) + pixel_nats(decoded, frames)

    def embed(self, state: State) -> Tensor:
        """Recurrent state and one-hot latent, (b, deter + stoch * classes)."""
        latent = state["stoch"]
        one_hot = torch.zeros(latent.shape[0], self.config.stoch * self.config.classes, device=latent.device)
        one_hot.scatter_(-1, latent + self.dynamics.latent_proj.offsets, 1.0)
        return torch.cat((state["deter"], one_hot), dim=-1)

    def reconstruct(self, frames: Tensor) -> Tensor:
        """Encode and decode, by the most probable latents."""
        return self.autoencoder.decode(self.autoencoder.encode(frames).argmax(dim=-1))

    def calibrate(self, statistics: DataStatistics) -> None:
        """Take the mean frame, the range of rewards, the mean reward and the rate of terminations from the data."""
        self.autoencoder.mean_frame.copy_(statistics.frame_mean)
        self.head.calibrate(statistics)

    def store_in_bfloat16(self) -> None:
        """Round the weights for faster dreaming; this model can then no longer be trained."""
        store_in_bfloat16(self)

    def state_bounds(self) -> StateBounds:
        """A class number per variable, and means of hyperbolic tangents."""
        bounds: StateBounds = {("stoch",): (0, self.config.classes - 1), ("deter",): (-MOST_HIDDEN, MOST_HIDDEN)}
        return bounds if self.prompting is None else {**bounds, ("prompt",): (0, MOST_HASH)}

    @property
    def losses(self) -> RSSMLoss:
        """What it learns from."""
        return RSSMLoss(self.config.training, self.autoencoder, self.action, self.dynamics, self.head, self.prompting)

    def stages(self) -> Sequence[Stage]:
        """Everything jointly on frames, then the recurrence, prior and head on cached latents."""
        training, losses = self.config.training, self.losses
        prompting = () if self.prompting is None else self.prompting.parameters()
        second = (*self.dynamics.parameters(), *self.head.parameters(), *prompting)
        everything = (*self.autoencoder.parameters(), *second)
        return (
            training.joint.build("joint", everything, losses.joint),
            training.dynamics.build("dynamics", second, losses.dynamics_only, losses.posterior),
        )

    def _after(
        self, state: State, stream: RowStreams, actions: Tensor, path: Sequence[tuple[Tensor, Tensor]],
        posterior: Tensor | None,
    ) -> State:  # fmt: skip
        """Return the state after some steps.

        Args:
            state: before them.
            stream: after them.
            actions: (b, t, *a), taken in them.
            path: deter (b, d) and latent (b, v) after each.
            posterior: (b, t, v, k) log-probabilities that their frames gave; None where these were imagined.
        """
        deter, latent = path[-1]
        return updated_state(state, stream, deter=deter, stoch=latent)

    def _conditions(self, state: State, actions: Tensor, projected: Tensor) -> Sequence[Conditions | None]:
        """Return what every step is predicted from besides the memory; None each in a world that takes no prompts."""
        steps = actions.shape[1]
        if self.prompting is None:
            return [None] * steps
        vectors = self.action(actions)
        return [self.prompting.conditions(state["prompt"], vectors[:, i], projected[:, i]) for i in range(steps)]

    def _step(
        self, deter: Tensor, latent: Tensor, projected: Tensor, given: Conditions | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the next deter (b, d), what prior and head read (b, d), and the prior's logits (b, v k)."""
        after = self.dynamics.step(deter, latent, projected)
        if self.prompting is None or given is None:
            return after, after, self.dynamics.prior_logits(after).float()
        features, logits = self.prompting.predict(self.dynamics, deter, latent, given)
        return after, features, logits

    def _decode(self, latents: Tensor) -> Tensor:
        """Class numbers (b, k, v) to frames (b, k, c, h, w) in [0, 1]."""
        frames: Tensor = self.autoencoder.decode(latents.flatten(0, 1)).unflatten(0, latents.shape[:2])
        return frames


class PromptedRSSM(RSSM):
    """The model of a configuration that has ``prompt``: an `RSSM` that takes prompts."""

    memory = (*RSSM.memory, "prompt")

    @property
    def prompt_encoder(self) -> BagOfWords:
        """See `SupportsPrompt`."""
        assert self.prompting is not None
        return self.prompting.encoder

    def prompt(self, state: State, prompt: Tensor) -> State:
        """See `SupportsPrompt`."""
        expected = (state.batch_size[0], self.prompt_encoder.tokens)
        if tuple(prompt.shape) != expected or prompt.dtype != torch.int64:
            raise PromptError(f"prompts must be {expected} int64, not {tuple(prompt.shape)} {prompt.dtype}.")
        return updated_state(state, RowStreams.of(state), prompt=prompt.clone())


def _stack(steps: list[Tensor]) -> Tensor:
    """Join what k steps gave, (b, ...) each, to (b, k, ...)."""
    return steps[0].unsqueeze(1) if len(steps) == 1 else torch.stack(steps, dim=1)
