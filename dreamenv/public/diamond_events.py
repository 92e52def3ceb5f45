"""DIAMOND's network of rewards and endings: what changed between two frames, remembered by an LSTM.

It tells the sign of a reward, and whether the episode ended, after the frame that the action led to.

State: ``hidden``, ``cell`` (b, width) each.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.backbones.denoising.config import DenoisingConfig
from dreamenv.errors import ConfigError
from dreamenv.nn.pieces import in_pieces
from dreamenv.nn.precision import Linear
from dreamenv.public.diamond_unet import Blocks, shrinking
from dreamenv.world_model import Batch, DataStatistics

__all__ = ["DiamondEvents", "DiamondEventsSizes"]


@dataclass(frozen=True, kw_only=True)
class DiamondEventsSizes:
    """Sizes of the network.

    Attributes:
        kind: "diamond events".
        memory: width of the LSTM.
        condition: width of an action's embedding.
        channels: of each resolution, finest first.
        blocks: of each resolution.
        attention: whether each resolution has it; the coarsest has it once more in any case.
    """

    kind: str = "diamond events"
    memory: int = 512
    condition: int = 128
    channels: tuple[int, ...] = (32, 32, 32, 32)
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    attention: tuple[bool, ...] = (False, False, False, False)

    def events(self, config: DenoisingConfig, frame_shape: tuple[int, int, int], action_size: int) -> nn.Module:
        """Make the untrained network."""
        del config
        return DiamondEvents(self, frame_shape, action_size)


class DiamondEvents(nn.Module):
    """The network; see `dreamenv.backbones.denoising.events.Events` for what it is asked.

    Args:
        sizes: its own.
        frame_shape: (c, h, w); h and w are multiples of what the resolutions need.
        action_size: values of the Discrete action space.

    Raises:
        ConfigError: frames that the resolutions do not divide.
    """

    def __init__(self, sizes: DiamondEventsSizes, frame_shape: tuple[int, int, int], action_size: int) -> None:
        super().__init__()
        c, h, w = frame_shape
        coarsest = 2 ** (len(sizes.channels) - 1)
        if h % coarsest or w % coarsest:
            raise ConfigError(f"frames of {h} x {w} are no multiple of {coarsest}, which the resolutions need.")
        self.entries = {"hidden": sizes.memory, "cell": sizes.memory}
        self.embedding_size = sizes.memory
        self.action = Linear(action_size, sizes.condition, bias=False)
        self.enter = nn.Conv2d(2 * c, sizes.channels[0], 3, padding=1)
        coarse, finer, stages = sizes.channels[-1], sizes.channels[0], []
        for width, count, attends in zip(sizes.channels, sizes.blocks, sizes.attention, strict=True):
            widths = [(finer, width)] + [(width, width)] * (count - 1)
            stages.append(Blocks(widths, sizes.condition, attention=attends))
            finer = width
        self.stages = nn.ModuleList([*stages, Blocks([(coarse, coarse)] * 2, sizes.condition, attention=True)])
        self.shrink = shrinking(sizes.channels).append(nn.Identity())
        features = coarse * (h // coarsest) * (w // coarsest)
        self.memory = nn.LSTM(features, sizes.memory, batch_first=True)
        self.head = nn.Sequential(Linear(sizes.memory, sizes.memory), nn.SiLU(), Linear(sizes.memory, 5, bias=False))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.register_buffer("rewards", torch.tensor([-1.0, 0.0, 1.0]), persistent=False)

    rewards: Tensor

    def embed(self, state: MutableMapping[str, Tensor]) -> Tensor:
        """The memory of what has been seen up to the present frame: (b, embedding_size)."""
        return state["hidden"]

    def follow(self, state: MutableMapping[str, Tensor], actions: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """See `dreamenv.backbones.denoising.events.Events.follow`. A reward is the mean of -1, 0 and 1."""
        before = torch.cat((state["frame"][:, None], frames[:, :-1]), dim=1)
        known = state["hidden"][None].contiguous(), state["cell"][None].contiguous()
        logits, (hidden, cell) = self.tell(before, actions, frames, known)
        state["hidden"], state["cell"] = hidden[0], cell[0]
        return logits[..., :3].softmax(-1) @ self.rewards, logits[..., 3:].softmax(-1)[..., 1]

    def tell(
        self, before: Tensor, actions: Tensor, after: Tensor, known: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return logits (b, t, 5): of a reward of -1, 0 and 1, then of going on and of ending; and the new memory.

        Args:
            before, after: frames (b, t, c, h, w) in [0, 1].
            actions: (b, t, a) vectors.
            known: hidden and cell, (1, b, width) each; None at an episode's beginning.
        """
        t = before.shape[1]
        pictures = 2 * torch.cat((before, after), dim=2).flatten(0, 1) - 1
        values = self.enter.out_channels * pictures.shape[-2] * pictures.shape[-1]
        maps = in_pieces(self._seen, values, pictures, self.action(actions.flatten(0, 1)))
        path, known = self._remembered(maps.flatten(1).unflatten(0, (-1, t)), known)
        return self.head(path), known

    def _remembered(self, maps: Tensor, known: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        if known is None or maps.shape[1] > 1:
            path, known = self.memory(maps, known)
            return path, known
        # On a processor the layer lays out its weights anew in every call, which takes ten times as long as a step.
        hidden, cell = torch.lstm_cell(maps[:, 0], [one[0] for one in known], *self.memory.all_weights[0])
        return hidden[:, None], (hidden[None], cell[None])

    def _seen(self, pictures: Tensor, condition: Tensor) -> Tensor:
        rounded = self.enter.weight.dtype == torch.bfloat16
        with torch.autocast(pictures.device.type, torch.bfloat16, enabled=rounded):
            maps = self.enter(pictures.contiguous(memory_format=torch.channels_last))
            for shrink, stage in zip(self.shrink, self.stages, strict=True):
                maps = stage(shrink(maps), condition)[-1]
        seen: Tensor = maps.float().contiguous()
        return seen

    def calibrate(self, statistics: DataStatistics) -> None:
        """Nothing is taken from the data: rewards are told by their sign."""

    def loss(self, actions: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropies of the reward's sign and of the ending, given the actions' vectors (b, t, a)."""
        before = torch.cat((batch.first_frame[:, None], batch.frames[:, :-1]), dim=1)
        logits, _ = self.tell(before, actions, batch.frames)
        total = batch.weight.sum().clamp_min(1e-8)
        parts = {
            "reward": (logits[..., :3], batch.rewards.sign().long() + 1),
            "termination": (logits[..., 3:], batch.terminated.long()),
        }
        terms = {
            name: (functional.cross_entropy(said.flatten(0, 1), meant.flatten(), reduction="none")
                   * batch.weight.flatten()).sum() / total
            for name, (said, meant) in parts.items()
        }  # fmt: skip
        return terms["reward"] + terms["termination"], terms
