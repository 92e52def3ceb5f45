"""A recurrent state-space model whose latent is a grid of finite scalars, drawn in a few passes.

As `dreamenv.backbones.rssm`, with the same recurrence and heads, but

- the latent keeps where things are: a frame is a grid of places, each with a few scalars of a few levels (FSQ, Mentzer
  et al. 2023). It learns small things several times as fast as a vector of categorical variables;
- the prior is a convolutional network that sees the two frames before, and draws the scalars of a place together, as
  one token, and the places in groups, each given those before it, so that neighbours agree.

State: ``deter`` (b, d), which is h, and ``codes`` (b, 2, s, y, x) int64, which are z_t and z_{t-1}.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dreamenv.backbones.grid_rssm.losses import GridRSSMLoss
from dreamenv.backbones.grid_rssm.memory import GridMemory
from dreamenv.backbones.grid_rssm.prior import GridPrior
from dreamenv.backbones.grid_rssm.training import GridRSSMTraining
from dreamenv.backbones.rssm.stream import RowStreams, updated_state
from dreamenv.codecs.fsq import FSQConfig
from dreamenv.codecs.rate import CodeRate
from dreamenv.errors import ConfigError
from dreamenv.heads.reward_termination import RewardTerminationHeadConfig
from dreamenv.nn.actions import ActionVector
from dreamenv.nn.precision import store_in_bfloat16
from dreamenv.nn.recurrence import MOST_HIDDEN
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

__all__ = ["GridRSSM", "GridRSSMConfig"]

_LEAST_LOG = -200.0  # less than the logarithm of any float32 but 0, whose share of the entropy is 0


@dataclass(frozen=True, kw_only=True)
class GridRSSMConfig(BackboneConfig, kind="grid_rssm"):
    """Settings.

    Attributes:
        deter: width of the recurrent state h.
        hidden: width of the layer through which a frame and an action enter it.
        codec: the autoencoder.
        prior_channels: of the prior's maps.
        prior_blocks: residual blocks of the prior.
        groups: passes in which a frame's places are drawn; 1 draws them independently.
        unimix: share of the uniform distribution mixed into every place's.
        min_p: tokens less probable than this share of the most probable one of their place are never drawn (Nguyen et
            al. 2024): many places, each with a small chance of an odd token, make every frame odd somewhere. 0 draws as
            learned.
        head: of reward and termination.
        training: the stages.

    Raises:
        ConfigError: a size or share that cannot be.
    """

    deter: int = 512
    hidden: int = 384
    codec: FSQConfig = FSQConfig()
    prior_channels: int = 64
    prior_blocks: int = 2
    groups: int = 2
    unimix: float = 0.001
    min_p: float = 0.0
    head: RewardTerminationHeadConfig = RewardTerminationHeadConfig()
    training: GridRSSMTraining = GridRSSMTraining()

    def __post_init__(self) -> None:
        for name in ("deter", "hidden", "prior_channels", "prior_blocks", "groups"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if not 0 <= self.unimix < 1:
            raise ConfigError(f"unimix must be in [0, 1), not {self.unimix}.")
        if not 0 <= self.min_p <= 1:
            raise ConfigError(f"min_p must be in [0, 1], not {self.min_p}.")

    def build(self, spec: WorldModelSpec) -> GridRSSM:
        """See `BackboneConfig`."""
        return GridRSSM(self, spec)


class GridRSSM(WorldModel):
    """The model. Parameters only; memory travels in the state.

    Args:
        config: its settings.
        spec: what it shows and accepts.

    Raises:
        ConfigError: a frame that the codec cannot take, more groups than its grid has, or actions that no vector stands
            for.
    """

    estimates_uncertainty = True
    score_of: Literal["tokens"] = "tokens"
    score_is: Literal["exact"] = "exact"

    def __init__(self, config: GridRSSMConfig, spec: WorldModelSpec) -> None:
        super().__init__()
        self.config, self.spec = config, spec
        self.autoencoder = config.codec.build(spec.frame_shape)
        grid, levels = self.autoencoder.grid, config.codec.levels
        self.action = ActionVector(spec.action_space)
        self.memory = GridMemory(grid, self.action.size, config.deter, config.hidden)
        self.prior = GridPrior(
            grid, levels, config.deter, config.prior_channels, config.prior_blocks, config.groups, config.unimix
        )
        self.head = config.head.build(config.deter)
        self.rate = CodeRate(grid[0], levels) if config.training.rate_weight > 0 else None
        self.embedding_size = config.deter + math.prod(grid)

    # The contract

    def start(self, first_frame: Tensor, seed: Tensor) -> State:
        """Remember nothing but the codes of the first frame."""
        check_first_frame(self.spec, first_frame, seed)
        deter = torch.zeros(len(first_frame), self.config.deter, device=first_frame.device)
        codes = self.autoencoder.encode(first_frame)
        state = new_state(seed, {"deter": deter, "codes": torch.stack((codes, codes), dim=1)})
        return updated_state(state, RowStreams.of(state).next())

    def observe(self, state: State, actions: Tensor, frames: Tensor) -> State:
        """Run the recurrence over what happened."""
        check_actions(self.spec, actions)
        check_frames(self.spec, actions, frames)
        check_state(state, actions, ("deter", "codes"))
        codes = self.autoencoder.encode(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        vectors = self.action(actions)
        deter, two, streams = state["deter"], state["codes"], RowStreams.of(state)
        for i in range(actions.shape[1]):
            deter = self.memory.step(deter, self.autoencoder.values(two[:, 0]), vectors[:, i])
            two = torch.stack((codes[:, i], two[:, 0]), dim=1)
            streams = streams.next()
        return updated_state(state, streams, deter=deter, codes=two)

    def imagine(self, state: State, actions: Tensor, *, decode: bool = True) -> tuple[Imagined, State]:
        """Draw each next frame's codes from the prior. ``uncertainty`` is its entropy per place, in nats."""
        check_actions(self.spec, actions)
        check_state(state, actions, ("deter", "codes"))
        vectors = self.action(actions)
        deter, two, streams = state["deter"], state["codes"], RowStreams.of(state)
        before = self.autoencoder.values(two)
        path, values, entropies = [], [], []
        for i in range(actions.shape[1]):
            deter = self.memory.step(deter, before[:, 0], vectors[:, i])
            codes, entropy = self._draw(deter, before.flatten(1, 2), streams)
            two = torch.stack((codes, two[:, 0]), dim=1)
            streams = streams.next()
            before = self.autoencoder.values(two)
            path.append(deter)
            values.append(before[:, 0])
            entropies.append(entropy)
        predicted = self.head(torch.stack(path, dim=1))
        imagined = Imagined(
            frames=self._decode(torch.stack(values, dim=1)) if decode else None,
            rewards=predicted.rewards,
            termination=predicted.termination,
            uncertainty=torch.stack(entropies, dim=1),
            terminal_rewards=predicted.terminal_rewards,
        )
        return imagined, updated_state(state, streams, deter=deter, codes=two)

    def score(self, state: State, actions: Tensor, frames: Tensor) -> Tensor:
        """See `SupportsScore`: the likelihood of the codes that the codec makes of each frame, under the prior.

        It is that of the prior as it was learned, whatever the state's temperature and ``min_p`` make of its samples.
        """
        check_actions(self.spec, actions)
        check_frames(self.spec, actions, frames)
        check_state(state, actions, ("deter", "codes"))
        codes = self.autoencoder.encode(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        values = self.autoencoder.values(codes)
        vectors, deter, two, nats = self.action(actions), state["deter"], self.autoencoder.values(state["codes"]), []
        for i in range(actions.shape[1]):
            deter = self.memory.step(deter, two[:, 0], vectors[:, i])
            nats.append(self._nats(deter, two.flatten(1, 2), codes[:, i], values[:, i]))
            two = torch.stack((values[:, i], two[:, 0]), dim=1)
        return torch.stack(nats, dim=1)

    def embed(self, state: State) -> Tensor:
        """Recurrent state and the values of the frame, (b, d + s * y * x)."""
        return torch.cat((state["deter"], self.autoencoder.values(state["codes"][:, 0]).flatten(1)), dim=1)

    def reconstruct(self, frames: Tensor) -> Tensor:
        """See `SupportsReconstruct`."""
        return self.autoencoder.decode(self.autoencoder.values(self.autoencoder.encode(frames)))

    def calibrate(self, statistics: DataStatistics) -> None:
        """Take the mean frame, the range of rewards and the usual values from the data."""
        self.autoencoder.mean_frame.copy_(statistics.frame_mean)
        self.head.calibrate(statistics)

    def store_in_bfloat16(self) -> None:
        """See `SupportsBfloat16`."""
        store_in_bfloat16(self)

    def state_bounds(self) -> StateBounds:
        """A level per scalar, and means of hyperbolic tangents."""
        return {("codes",): (0, self.config.codec.levels - 1), ("deter",): (-MOST_HIDDEN, MOST_HIDDEN)}

    def stages(self) -> Sequence[Stage]:
        """The autoencoder and its rate on frames, then memory, prior and head on cached codes."""
        training = self.config.training
        losses = GridRSSMLoss(training, self.autoencoder, self.rate, self.action, self.memory, self.prior, self.head)
        second = (*self.memory.parameters(), *self.prior.parameters(), *self.head.parameters())
        first = (*self.autoencoder.parameters(), *(() if self.rate is None else self.rate.parameters()))
        return (
            training.codec.build("codec", first, losses.codec),
            # In float32, as in a dream: codes that lie next to a boundary would be others.
            training.dynamics.build("dynamics", second, losses.dynamics, self.autoencoder.encode),
        )

    def _decode(self, values: Tensor) -> Tensor:
        """Values (b, k, s, y, x) to frames (b, k, c, h, w) in [0, 1]."""
        frames: Tensor = self.autoencoder.decode(values.flatten(0, 1)).unflatten(0, values.shape[:2])
        return frames

    def _nats(self, deter: Tensor, before: Tensor, codes: Tensor, values: Tensor) -> Tensor:
        """Return the negative log-likelihood of codes (b, s, y, x), (b,): of each group given those before it."""
        context = self.prior.context(deter, before)
        groups = [torch.full((len(codes),), index, device=codes.device) for index in range(self.prior.groups)]
        return torch.stack([self.prior.nats(context, codes, values, group) for group in groups]).sum(dim=0)

    def _draw(self, deter: Tensor, before: Tensor, streams: RowStreams) -> tuple[Tensor, Tensor]:
        """Draw codes (b, s, y, x) group by group, each of its own random stream; also their mean entropy (b,)."""
        prior, context = self.prior, self.prior.context(deter, before)
        tokens = torch.zeros((len(before), prior.group.numel()), dtype=torch.int64, device=before.device)
        known, entropy = before[:, : prior.grid[0]], before.new_zeros(len(before))
        for index, size in enumerate(prior.sizes):
            probs = prior(context, known, torch.full_like(streams.counter, index))[:, :size]  # b p tokens
            entropy = entropy - torch.linalg.vecdot(probs, probs.log().clamp_min_(_LEAST_LOG)).sum(dim=-1)
            if self.config.min_p > 0:
                least = probs.amax(dim=-1, keepdim=True) * self.config.min_p
                probs = probs.masked_fill(probs < least, 0.0)
            tokens[:, prior.places[index, :size]] = streams.draw_of(probs, stream=index)
            codes = prior.codes_of(tokens)
            known = self.autoencoder.values(codes)
        return codes, entropy / prior.group.numel()
