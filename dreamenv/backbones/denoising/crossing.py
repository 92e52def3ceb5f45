"""Past frames by attention across to them, which costs as much per frame however many there are (NWM, Bar et al. 2024).

Each past frame is turned into keys and values by itself, so they hold for good: a window that slides is exact. A frame
that is drawn may lie several steps after the last one seen: it is told how many, and what was done in them on average.

Memory: ``keys``, ``values`` (b, depth, heads, 1 + context n, d), of nothing at all and then of n tokens of each frame,
newest last, laid out as every pass looks at them; ``held`` (b,) int64, how many frames are there; ``seen`` (b,) int64,
how many there have been.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dreamenv.backbones.denoising.config import DenoisingConfig
from dreamenv.backbones.denoising.networks import Asked, Condition, FrameNetwork, Remembered
from dreamenv.diffusion.targets import per_frame
from dreamenv.nn.cdit import CDiT

__all__ = ["CrossFrames"]


class CrossFrames(FrameNetwork):
    """Draws one frame at a time, the next one or one further ahead.

    Args:
        config: the transformer's size.
        frame_shape: (c, h, w).
        action_size: width of an action's vector.
    """

    def __init__(self, config: DenoisingConfig, frame_shape: tuple[int, int, int], action_size: int) -> None:
        super().__init__()
        self.config, self.process, self.target = config, config.process, config.make_target()
        self.condition = Condition(
            action_size, config.condition, steps=config.shortcut > 0, gaps=config.furthest_jump > 1
        )
        self.described = nn.Linear(action_size, config.condition)
        self.dit = CDiT(frame_shape, config.condition, config.depth, config.heads, config.patch)

    def begin(self, like: Tensor) -> Remembered:
        """No frame."""
        b = like.shape[0]
        none = torch.zeros(b, dtype=torch.int64, device=like.device)
        depth, heads, n, d = self.dit.cache_shape
        room = like.new_zeros(b, depth, heads, self.config.context * n, d)
        keys, values = (torch.cat((nothing, room), dim=-2) for nothing in self.dit.nothing(b))
        return {"keys": keys, "values": values, "held": none, "seen": none}

    def remember(
        self, past: Mapping[str, Tensor], frames: Tensor, actions: Tensor, groups: Tensor | None = None
    ) -> Remembered:
        """Make keys and values of each frame by itself, and keep the last ones."""
        del groups
        w, f = self.config.context, frames.shape[1]
        time = past["seen"][:, None] + torch.arange(f, device=frames.device)
        keys, values = self.dit.remember(self._presented(frames), self.described(actions), time)
        return {
            "keys": self._pushed(past["keys"], keys),
            "values": self._pushed(past["values"], values),
            "held": (past["held"] + f).clamp_max(w),
            "seen": past["seen"] + f,
        }

    def predict(self, past: Mapping[str, Tensor], asked: Asked) -> Tensor:
        """Each by itself: as the next frame, or as one that lies ``asked.gap`` steps ahead."""
        w, f = self.config.context, asked.noisy.shape[1]
        gap = torch.ones_like(asked.level) if asked.gap is None else asked.gap
        age = w - torch.arange(w, device=asked.noisy.device)
        there = (age <= past["held"][:, None])[:, None].expand(-1, f, -1)
        return self._run((past["keys"], past["values"]), asked, past["seen"][:, None] + gap - 1, there)

    def predict_all(self, clean: Tensor, asked: Asked) -> Tensor:
        """Every frame from those that lie at least its gap before it."""
        b, s = clean.shape[:2]
        order = torch.arange(s, device=clean.device)
        gap = torch.ones_like(asked.level) if asked.gap is None else asked.gap
        time = order.expand(b, -1)
        back = order[:, None] - order  # s s: how many frames a past one lies behind the one drawn
        mask = (back >= gap[:, :, None]) & (back < gap[:, :, None] + self.config.context)
        if asked.alone is not None:
            mask = mask & ~asked.alone[:, None, None]
        made = self.dit.remember(self._presented(clean), self.described(asked.actions), time)
        keys, values = (torch.cat(both, dim=-2) for both in zip(self.dit.nothing(b), made, strict=True))
        return self._run((keys, values), asked, time, mask)

    def _run(self, past: tuple[Tensor, Tensor], asked: Asked, time: Tensor, mask: Tensor) -> Tensor:
        condition = self.condition(self.process.time(asked.level), asked.actions, asked.step, asked.gap)
        scaled = asked.noisy * per_frame(self.target.scale(asked.level), asked.noisy)
        output: Tensor = self.dit(scaled, condition, past, time, mask)
        return output

    @staticmethod
    def _pushed(past: Tensor, new: Tensor) -> Tensor:
        """Put tokens (b, depth, heads, m, d) last, and drop as many of the oldest; nothing stays first."""
        first, rest = past.tensor_split([1], dim=-2)
        kept = torch.cat((rest, new), dim=-2)[..., -rest.shape[-2] :, :]
        return torch.cat((first, kept), dim=-2)

    def _presented(self, frames: Tensor) -> Tensor:
        return frames / self.config.data_std
