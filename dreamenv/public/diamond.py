"""DIAMOND's denoiser (Alonso et al. 2024): the next frame out of noise, from the last few frames and actions.

Memory: as `dreamenv.backbones.denoising.stacked`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.backbones.denoising.config import DenoisingConfig
from dreamenv.backbones.denoising.networks import FrameNetwork
from dreamenv.backbones.denoising.stacked import StackedFrames
from dreamenv.diffusion.targets import per_frame
from dreamenv.errors import ConfigError
from dreamenv.nn.actions import ActionVector
from dreamenv.nn.pieces import in_pieces
from dreamenv.nn.unet import FourierFeatures
from dreamenv.public.diamond_unet import DiamondUNet, group_norm

__all__ = ["DiamondFrames", "DiamondSizes"]


@dataclass(frozen=True, kw_only=True)
class DiamondSizes:
    """Sizes of the denoiser.

    Attributes:
        kind: "diamond".
        actions: values of the Discrete action space, which differ from game to game.
        condition: width of the embedding of noise level and actions; the world's context must divide it.
        channels: of each resolution, finest first.
        blocks: of each resolution, on the way down.
        attention: whether each resolution has it.

    Raises:
        ConfigError: sizes that are not positive, or not as many of one as of the other.
    """

    kind: str = "diamond"
    actions: int
    condition: int = 256
    channels: tuple[int, ...] = (64, 64, 64, 64)
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    attention: tuple[bool, ...] = (False, False, False, False)

    def __post_init__(self) -> None:
        if not len(self.channels) == len(self.blocks) == len(self.attention) > 0:
            raise ConfigError(
                "channels, blocks and attention must be as many as there are resolutions, not "
                f"{len(self.channels)}, {len(self.blocks)} and {len(self.attention)}."
            )
        if min(self.actions, self.condition, *self.channels, *self.blocks) < 1 or self.condition % 2:
            raise ConfigError(
                f"actions, condition, channels and blocks must be positive, and condition even, not {self.actions}, "
                f"{self.condition}, {self.channels} and {self.blocks}."
            )

    def vectors(self, space: gym.Space[Any]) -> nn.Module:
        """Return indicators of a choice among ``actions``."""
        if not isinstance(space, gym.spaces.Discrete) or int(space.n) != self.actions:
            raise ConfigError(f"this denoiser was trained for Discrete({self.actions}), not {space}.")
        return ActionVector(space)

    def network(self, config: DenoisingConfig, frame_shape: tuple[int, int, int], action_size: int) -> FrameNetwork:
        """Make the untrained denoiser."""
        del action_size
        return DiamondFrames(self, config, frame_shape)


class DiamondFrames(StackedFrames):
    """Draws one frame at a time.

    Args:
        sizes: of the denoiser.
        config: of the world.
        frame_shape: (c, h, w).

    Raises:
        ConfigError: a context that does not divide the condition's width.
    """

    def __init__(self, sizes: DiamondSizes, config: DenoisingConfig, frame_shape: tuple[int, int, int]) -> None:
        FrameNetwork.__init__(self)
        c, wide, width = frame_shape[0], sizes.condition, sizes.channels[0]
        if wide % config.context:
            raise ConfigError(f"a context of {config.context} frames does not divide the condition's width of {wide}.")
        self.config, self.process, self.target = config, config.process, config.make_target()
        self.action_size = sizes.actions
        self.level = FourierFeatures(wide)
        self.action = nn.Linear(sizes.actions, wide // config.context, bias=False)
        self.mix = nn.Sequential(nn.Linear(wide, wide), nn.SiLU(), nn.Linear(wide, wide))
        self.enter = nn.Conv2d((config.context + 1) * c, width, 3, padding=1)
        self.unet = DiamondUNet(wide, sizes.channels, sizes.blocks, sizes.attention)
        self.norm = group_norm(width)
        self.leave = nn.Conv2d(width, c, 3, padding=1)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _run(self, context: Tensor, noisy: Tensor, level: Tensor, actions: Tensor) -> Tensor:
        """Frames (n, k, c, h, w) before, one noisy frame (n, 1, c, h, w), k actions -> (n, 1, c, h, w)."""
        _, sigma = self.process.at(level)
        spread = (sigma**2 + self.config.offset**2).sqrt()
        condition = self.mix(self.level(spread[:, 0].log() / 4) + self.action(actions).flatten(1))
        scaled = noisy * per_frame(self.target.scale(level), noisy)
        stacked = torch.cat((context / self.config.data_std, scaled), dim=1).flatten(1, 2)
        values = self.enter.out_channels * stacked.shape[-2] * stacked.shape[-1]
        return in_pieces(self._through, values, stacked, condition)[:, None]

    def _through(self, stacked: Tensor, condition: Tensor) -> Tensor:
        maps = self.unet(self.enter(stacked.contiguous(memory_format=torch.channels_last)), condition)
        output: Tensor = self.leave(functional.silu(self.norm(maps)))
        return output
