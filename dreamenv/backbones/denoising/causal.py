"""Past frames by causal attention, each at a noise level of its own (Diffusion Forcing, Chen et al. 2024; Oasis).

A clean frame passes through the network once, presented as slightly noisy, and is remembered as keys and values; the
frames that are drawn attend to those. A frame attends to ``context`` frames before it, so dropping older ones changes
nothing that is still looked at directly; what they left in the frames after them stays. Frames of a group (MAGI-1's
chunks) see each other both ways; a group is remembered whole.

Memory: ``keys``, ``values`` (b, depth, n, heads, context, d), newest last; ``held`` (b,) int64, how many are there;
``seen`` (b,) int64, how many there have been; ``actions`` (b, w, a), the vectors of the last ones, where keyboard and
mouse are put in by themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dreamenv.backbones.denoising.config import DenoisingConfig
from dreamenv.backbones.denoising.networks import Asked, Condition, FrameNetwork, Remembered
from dreamenv.diffusion.objective import stabilised
from dreamenv.diffusion.targets import per_frame
from dreamenv.nn.attention import Cache
from dreamenv.nn.dit import DiT
from dreamenv.nn.injection import ActionInjection, windows

__all__ = ["CausalFrames"]


class CausalFrames(FrameNetwork):
    """Draws any number of frames together.

    Args:
        config: the transformer's size, and how context is presented.
        frame_shape: (c, h, w).
        chosen: (a,) for each entry of an action's vector, whether it is a choice or a quantity.
        stride: actions per frame.
    """

    def __init__(
        self, config: DenoisingConfig, frame_shape: tuple[int, int, int], chosen: Sequence[bool], stride: int = 1
    ) -> None:
        super().__init__()
        self.config, self.process, self.target = config, config.process, config.make_target()
        self.action_size, self.stride = len(chosen), stride
        self.by_itself = config.actions == "by kind"
        width = 0 if self.by_itself else stride * len(chosen)
        self.condition = Condition(width, config.condition, steps=config.shortcut > 0)
        injections = [
            ActionInjection(config.condition, chosen, (config.action_window + 1) * stride, config.heads)
            for _ in range(config.depth if self.by_itself else 0)
        ]
        self.dit = DiT(
            frame_shape, config.condition, config.depth, config.heads, config.patch, config.context, injections
        )

    def begin(self, like: Tensor) -> Remembered:
        """No frame."""
        b = like.shape[0]
        size = (b, *self.dit.cache_shape)
        nothing = torch.zeros(b, dtype=torch.int64, device=like.device)
        memory = {"keys": like.new_zeros(size), "values": like.new_zeros(size), "held": nothing, "seen": nothing}
        if self.by_itself:
            memory["actions"] = like.new_zeros(b, self.config.action_window, self.stride * self.action_size)
        return memory

    def remember(
        self, past: Mapping[str, Tensor], frames: Tensor, actions: Tensor, groups: Tensor | None = None
    ) -> Remembered:
        """Run them through the network and keep the keys and values of the last ones."""
        w, f = self.config.context, frames.shape[1]
        shown, level = stabilised(self.process, frames, self.config.stabilisation, self.config.manner)
        step = torch.full_like(level, 1 / self.config.shortcut) if self.config.shortcut else None
        asked = Asked(shown, level, actions, step, groups=groups)
        _, keys, values = self._run(asked, self._caches(past), past.get("actions"))
        memory = {
            "keys": torch.cat((past["keys"], keys), dim=-2)[..., -w:, :],
            "values": torch.cat((past["values"], values), dim=-2)[..., -w:, :],
            "held": (past["held"] + f).clamp_max(w),
            "seen": past["seen"] + f,
        }
        if self.by_itself:
            kept = torch.cat((past["actions"], actions), dim=1)
            memory["actions"] = kept[:, kept.shape[1] - self.config.action_window :]
        return memory

    def predict(self, past: Mapping[str, Tensor], asked: Asked) -> Tensor:
        """Attend to what is remembered, and to each other, earlier groups and their own."""
        return self._run(asked, self._caches(past), past.get("actions"))[0]

    def predict_all(self, clean: Tensor, asked: Asked) -> Tensor:
        """All noisy frames together, which are each other's context."""
        del clean
        before = None
        if self.by_itself:
            before = asked.actions.new_zeros(len(asked.actions), self.config.action_window, asked.actions.shape[-1])
        return self._run(asked, None, before)[0]

    def _run(self, asked: Asked, past: Sequence[Cache] | None, before: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        condition = self.condition(self.process.time(asked.level), asked.actions, asked.step)
        seen = None
        if before is not None:
            kinds = (self.stride, self.action_size)
            seen = windows(before.unflatten(-1, kinds), asked.actions.unflatten(-1, kinds))
        groups = asked.groups
        if groups is None:
            groups = torch.arange(asked.noisy.shape[1], device=asked.noisy.device)
        scaled = asked.noisy * per_frame(self.target.scale(asked.level), asked.noisy)
        output: tuple[Tensor, Tensor, Tensor] = self.dit(scaled, condition, groups, past, seen)
        return output

    @staticmethod
    def _caches(past: Mapping[str, Tensor]) -> list[Cache]:
        layers = zip(past["keys"].unbind(1), past["values"].unbind(1), strict=True)
        return [Cache(keys, values, past["held"], past["seen"]) for keys, values in layers]
