"""Past frames as further channels below the noisy one, for a U-Net (DIAMOND, Alonso et al. 2024).

Memory: ``frames`` (b, n, c, h, w), newest last, grey where there was none yet; ``actions`` (b, n, a) that led to them,
0 where there was none.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from einops import rearrange
from torch import Tensor, nn

from dreamenv.backbones.denoising.config import DenoisingConfig
from dreamenv.backbones.denoising.networks import Asked, Condition, FrameNetwork, Remembered
from dreamenv.diffusion.targets import per_frame
from dreamenv.nn.pieces import in_pieces
from dreamenv.nn.unet import UNet

__all__ = ["StackedFrames"]


class StackedFrames(FrameNetwork):
    """Draws one frame at a time from the last few.

    Args:
        config: how many, and the U-Net's size.
        frame_shape: (c, h, w).
        action_size: width of an action's vector.
    """

    def __init__(self, config: DenoisingConfig, frame_shape: tuple[int, int, int], action_size: int) -> None:
        super().__init__()
        c, h, w = frame_shape
        self.config, self.process, self.target = config, config.process, config.make_target()
        self.action_size, self._values = action_size, config.channels[0] * h * w // config.patch**2
        self.condition = Condition(config.context * action_size, config.condition)
        self.unet: nn.Module = UNet(
            (h, w), (config.context + 1) * c, c, config.condition, config.channels, config.blocks, config.patch
        )

    def begin(self, like: Tensor) -> Remembered:
        """Nothing but grey."""
        b, n = like.shape[0], self.config.context
        return {"frames": like.new_zeros(b, n, *like.shape[1:]), "actions": like.new_zeros(b, n, self.action_size)}

    def remember(
        self, past: Mapping[str, Tensor], frames: Tensor, actions: Tensor, groups: Tensor | None = None
    ) -> Remembered:
        """Keep the last ones."""
        del groups
        n = self.config.context
        return {
            "frames": torch.cat((past["frames"], frames), dim=1)[:, -n:],
            "actions": torch.cat((past["actions"], actions), dim=1)[:, -n:],
        }

    def predict(self, past: Mapping[str, Tensor], asked: Asked) -> Tensor:
        """For one frame, f = 1."""
        actions = torch.cat((past["actions"][:, 1:], asked.actions), dim=1)
        return self._run(past["frames"], asked.noisy, asked.level, actions)

    def predict_all(self, clean: Tensor, asked: Asked) -> Tensor:
        """Every frame after the first, as if the dream had begun with the sequence."""
        n, b = self.config.context, clean.shape[0]
        if asked.alone is not None:
            clean = clean * per_frame(~asked.alone, clean)
        grey = torch.zeros_like(clean[:, :1]).expand(-1, n - 1, -1, -1, -1)
        context = torch.cat((grey, clean[:, :-1]), dim=1).unfold(1, n, 1)  # b s-1 c h w n
        nothing = torch.zeros_like(asked.actions[:, :1]).expand(-1, n - 1, -1)
        actions = torch.cat((nothing, asked.actions[:, 1:]), dim=1).unfold(1, n, 1)  # b s-1 a n
        output = self._run(
            rearrange(context, "b s c h w n -> (b s) n c h w"),
            rearrange(asked.noisy[:, 1:], "b s c h w -> (b s) 1 c h w"),
            rearrange(asked.level[:, 1:], "b s -> (b s) 1"),
            rearrange(actions, "b s a n -> (b s) n a"),
        )
        output = rearrange(output, "(b s) 1 c h w -> b s c h w", b=b)
        return torch.cat((torch.zeros_like(output[:, :1]), output), dim=1)

    def _run(self, context: Tensor, noisy: Tensor, level: Tensor, actions: Tensor) -> Tensor:
        """Frames (n, k, c, h, w) before, one noisy frame (n, 1, c, h, w), k actions -> (n, 1, c, h, w)."""
        condition = self.condition(self.process.time(level)[:, 0], actions.flatten(1))
        scaled = noisy * per_frame(self.target.scale(level), noisy)
        stacked = torch.cat((context / self.config.data_std, scaled), dim=1)
        output = in_pieces(self.unet, self._values, rearrange(stacked, "n f c h w -> n (f c) h w"), condition)
        return output[:, None]
