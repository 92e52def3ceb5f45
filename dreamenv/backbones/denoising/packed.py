"""The whole past packed into as many tokens as one or two frames (FramePack, Zhang and Agrawala 2025).

The newest frames are kept as they are, older ones by ever larger cuboids of frames and pixels, so that a long memory
costs as much as a short one. The past's keys and values are made when it changes, once for all passes over the frames
that are drawn. Those see each other both ways, in whichever order they are drawn: the last one first, if so planned,
so that the others lie between two ends and cannot drift.

Memory: ``frames`` (b, w, c, h, w), newest last, grey where there was none; ``described`` (b, w, a), the vectors of the
actions that led to them; ``held`` (b,) int64, how many are there; ``keys``, ``values`` (b, depth, heads, m, d).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from einops import rearrange
from torch import Tensor, nn

from dreamenv.backbones.denoising.config import DenoisingConfig
from dreamenv.backbones.denoising.networks import Asked, Condition, FrameNetwork, Remembered
from dreamenv.diffusion.targets import per_frame
from dreamenv.nn.packed_dit import PackedDiT

__all__ = ["PackedFrames"]


class PackedFrames(FrameNetwork):
    """Draws a chunk of frames together.

    Args:
        config: the transformer's size, and how the past is packed.
        frame_shape: (c, h, w).
        action_size: width of an action's vector.
    """

    def __init__(self, config: DenoisingConfig, frame_shape: tuple[int, int, int], action_size: int) -> None:
        super().__init__()
        self.config, self.process, self.target = config, config.process, config.make_target()
        self.action_size = action_size
        self.condition = Condition(action_size, config.condition, steps=config.shortcut > 0)
        self.described = nn.Linear(action_size, config.condition)
        self.dit = PackedDiT(frame_shape, config.condition, config.depth, config.heads, config.patch, config.packing)

    def begin(self, like: Tensor) -> Remembered:
        """No frame."""
        b, w = like.shape[0], self.dit.frames
        kept = like.new_zeros(b, *self.dit.cache_shape)
        return {
            "frames": like.new_zeros(b, w, *like.shape[1:]),
            "described": like.new_zeros(b, w, self.action_size),
            "held": torch.zeros(b, dtype=torch.int64, device=like.device),
            "keys": kept,
            "values": kept,
        }

    def remember(
        self, past: Mapping[str, Tensor], frames: Tensor, actions: Tensor, groups: Tensor | None = None
    ) -> Remembered:
        """Keep the last ones, and pack them anew."""
        del groups
        w, f = self.dit.frames, frames.shape[1]
        kept = torch.cat((past["frames"], frames), dim=1)[:, -w:]
        described = torch.cat((past["described"], actions), dim=1)[:, -w:]
        held = (past["held"] + f).clamp_max(w)
        keys, values = self._packed(kept, described, held)
        return {"frames": kept, "described": described, "held": held, "keys": keys, "values": values}

    def predict(self, past: Mapping[str, Tensor], asked: Asked) -> Tensor:
        """All together, from what is packed."""
        return self._run((past["keys"], past["values"]), self.dit.there(past["held"]), asked)

    def predict_all(self, clean: Tensor, asked: Asked) -> Tensor:
        """Every chunk after the first frame, as if the dream had begun with the sequence."""
        chunk, w, b = self.config.chunk, self.dit.frames, len(clean)
        s = (clean.shape[1] - 1) // chunk  # chunks
        empty = clean.new_zeros(b, w - 1, *clean.shape[2:])
        before = torch.cat((empty, clean), dim=1).unfold(1, w, 1)[:, : s * chunk : chunk]  # b s c h w' w
        nothing = asked.actions.new_zeros(b, w - 1, self.action_size)
        done = torch.cat((nothing, asked.actions), dim=1).unfold(1, w, 1)[:, : s * chunk : chunk]  # b s a w
        held = (1 + chunk * torch.arange(s, device=clean.device)).clamp_max(w).repeat(b)
        keys, values = self._packed(
            rearrange(before, "b s c h v w -> (b s) w c h v"), rearrange(done, "b s a w -> (b s) w a"), held
        )
        there = self.dit.there(held)
        if asked.alone is not None:
            there = there & ~asked.alone.repeat_interleave(s)[:, None]

        def chunks(values: Tensor) -> Tensor:
            return values[:, 1:].reshape(b * s, chunk, *values.shape[2:])

        step = None if asked.step is None else chunks(asked.step)
        pieces = Asked(chunks(asked.noisy), chunks(asked.level), chunks(asked.actions), step)
        output = self._run((keys, values), there, pieces).unflatten(0, (b, s)).flatten(1, 2)
        return torch.cat((torch.zeros_like(output[:, :1]), output), dim=1)

    def _packed(self, frames: Tensor, actions: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
        packed = self.dit.pack(frames / self.config.data_std, self.described(actions))
        clean = torch.full(held.shape, self.process.clean, device=held.device)
        step = torch.full(held.shape, 1 / self.config.shortcut, device=held.device) if self.config.shortcut else None
        condition = self.condition(self.process.time(clean), torch.zeros_like(actions[:, 0]), step)
        return self.dit.remember(packed, condition, held)

    def _run(self, past: tuple[Tensor, Tensor], there: Tensor, asked: Asked) -> Tensor:
        condition = self.condition(self.process.time(asked.level), asked.actions, asked.step)
        scaled = asked.noisy * per_frame(self.target.scale(asked.level), asked.noisy)
        output: Tensor = self.dit(scaled, condition, past, there)
        return output
