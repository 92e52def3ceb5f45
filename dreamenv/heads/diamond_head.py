"""DIAMOND's head: convolutions see how a frame changed, an LSTM remembers it (Alonso et al. 2024).

It predicts the sign of a reward, and whether the episode ended, after the frame that the action led to. State:
``hidden``, ``cell`` (b, hidden_size) each.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.errors import ConfigError
from dreamenv.heads.base import Head, HeadConfig, HeadOutput, HeadTraining
from dreamenv.nn.batching import map_in_chunks
from dreamenv.nn.diamond_unet import ResidualBlocks, check_resolutions, downsampling
from dreamenv.nn.precision import Linear, autocast
from dreamenv.world_model import Batch, DataStatistics

__all__ = ["DiamondHead", "DiamondHeadConfig"]


@dataclass(frozen=True, kw_only=True)
class DiamondHeadConfig(HeadConfig, kind="diamond_head"):
    """Settings. The defaults are those of Atari's worlds.

    Attributes:
        hidden_size: of the LSTM.
        embed_dim: width of an action's embedding.
        channels: of each resolution, finest first.
        blocks: of each resolution.
        attention: whether each resolution has it; the coarsest has it once more in any case.
        training: the stage that learns it.

    Raises:
        ConfigError: sizes that are not positive or do not go together.
    """

    hidden_size: int = 512
    embed_dim: int = 128
    channels: tuple[int, ...] = (32, 32, 32, 32)
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    attention: tuple[bool, ...] = (False, False, False, False)
    training: HeadTraining = field(default=HeadTraining(learning_rate=1e-4, bfloat16=False))

    def __post_init__(self) -> None:
        check_resolutions(self.channels, self.blocks, self.attention)
        for name in ("hidden_size", "embed_dim"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")

    @property
    def stage(self) -> HeadTraining:
        """See `HeadConfig`."""
        return self.training

    def build(self, frame_shape: tuple[int, int, int], action_size: int) -> DiamondHead:
        """See `HeadConfig`."""
        return DiamondHead(self, frame_shape, action_size)


class DiamondHead(Head):
    """The head.

    Args:
        config: its settings.
        frame_shape: (c, h, w).
        action_size: width of an action's vector.

    Raises:
        ConfigError: frames that the resolutions do not divide, or channels that groups of normalisation, or heads of
            attention, do not divide.
    """

    reward_values: Tensor

    def __init__(self, config: DiamondHeadConfig, frame_shape: tuple[int, int, int], action_size: int) -> None:
        super().__init__()
        c, h, w = frame_shape
        coarsest = 2 ** (len(config.channels) - 1)
        if h % coarsest or w % coarsest:
            raise ConfigError(f"frames of {h} x {w} are no multiple of {coarsest}, which the resolutions need.")
        size = config.hidden_size
        self.entries = {"hidden": size, "cell": size}
        self.embedding_size = size
        self._bfloat16 = config.training.bfloat16
        self.action = Linear(action_size, config.embed_dim, bias=False)
        self.conv_in = nn.Conv2d(2 * c, config.channels[0], 3, padding=1)
        coarse, finer, stages = config.channels[-1], config.channels[0], []
        for width, count, attends in zip(config.channels, config.blocks, config.attention, strict=True):
            widths = [(finer, width)] + [(width, width)] * (count - 1)
            stages.append(ResidualBlocks(widths, config.embed_dim, attention=attends))
            finer = width
        middle = ResidualBlocks([(coarse, coarse)] * 2, config.embed_dim, attention=True)
        self.stages = nn.ModuleList([*stages, middle])
        self.downsample = downsampling(config.channels).append(nn.Identity())
        self.lstm = nn.LSTM(coarse * (h // coarsest) * (w // coarsest), size, batch_first=True)
        self.mlp = nn.Sequential(Linear(size, size), nn.SiLU(), Linear(size, 5, bias=False))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.register_buffer("reward_values", torch.tensor([-1.0, 0.0, 1.0]), persistent=False)

    def embed(self, state: Mapping[str, Tensor]) -> Tensor:
        """Return what is remembered of all up to the present frame, (b, embedding_size)."""
        return state["hidden"]

    def follow(self, state: MutableMapping[str, Tensor], actions: Tensor, frames: Tensor) -> HeadOutput:
        """See `Head`. A reward is the mean of -1, 0 and 1."""
        before = torch.cat((state["frame"][:, None], frames[:, :-1]), dim=1)
        memory = state["hidden"][None].contiguous(), state["cell"][None].contiguous()
        logits, (hidden, cell) = self.predict(before, actions, frames, memory)
        state["hidden"], state["cell"] = hidden[0], cell[0]
        rewards = logits[..., :3].softmax(-1) @ self.reward_values
        return HeadOutput(rewards, logits[..., 3:].softmax(-1)[..., 1])

    def predict(
        self, before: Tensor, actions: Tensor, after: Tensor, memory: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return logits (b, t, 5): of a reward of -1, 0 and 1, then of going on and of terminating; and the new memory.

        Args:
            before, after: frames (b, t, c, h, w) in [0, 1].
            actions: (b, t, a) vectors.
            memory: hidden and cell, (1, b, hidden_size) each; None at an episode's beginning.
        """
        t = before.shape[1]
        pictures = 2 * torch.cat((before, after), dim=2).flatten(0, 1) - 1
        values = self.conv_in.out_channels * pictures.shape[-2] * pictures.shape[-1]
        maps = map_in_chunks(self._encode, values, pictures, self.action(actions.flatten(0, 1)))
        path, memory = self._remember(maps.flatten(1).unflatten(0, (-1, t)), memory)
        return self.mlp(path), memory

    def calibrate(self, statistics: DataStatistics) -> None:
        """Take nothing from the data: rewards are predicted by their sign."""

    def loss(self, actions: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the cross-entropies of the reward's sign and of the termination; see `Head`."""
        before = torch.cat((batch.first_frame[:, None], batch.frames[:, :-1]), dim=1)
        with autocast(actions.device, self._bfloat16 and self.training):
            logits = self.predict(before, actions, batch.frames)[0].float()
        total = batch.weight.sum().clamp_min(1e-8)

        def mean(logits: Tensor, classes: Tensor) -> Tensor:
            entropies = functional.cross_entropy(logits.flatten(0, 1), classes.flatten(), reduction="none")
            return (entropies * batch.weight.flatten()).sum() / total

        terms = {
            "reward": mean(logits[..., :3], batch.rewards.sign().long() + 1),
            "termination": mean(logits[..., 3:], batch.terminated.long()),
        }
        return terms["reward"] + terms["termination"], terms

    def _encode(self, pictures: Tensor, condition: Tensor) -> Tensor:
        """Two frames each (m, 2 c, h, w), and the action between them -> the coarsest maps."""
        rounded = self.conv_in.weight.dtype == torch.bfloat16 or torch.is_autocast_enabled(pictures.device.type)
        with torch.autocast(pictures.device.type, torch.bfloat16, enabled=rounded):
            maps = self.conv_in(pictures.contiguous(memory_format=torch.channels_last))
            for downsample, stage in zip(self.downsample, self.stages, strict=True):
                maps = stage(downsample(maps), condition)[-1]
        encoded: Tensor = maps.float().contiguous()
        return encoded

    def _remember(self, maps: Tensor, memory: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        if memory is None or maps.shape[1] > 1:
            path, memory = self.lstm(maps, memory)
            return path, memory
        # On a processor the layer lays out its weights again in every call, which takes ten times as long as a step.
        hidden, cell = torch.lstm_cell(maps[:, 0], [one[0] for one in memory], *self.lstm.all_weights[0])
        return hidden[:, None], (hidden[None], cell[None])
