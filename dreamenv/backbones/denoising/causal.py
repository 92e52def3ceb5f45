"""Past frames by causal attention, each at a noise level of its own (Diffusion Forcing, Chen et al. 2024; Oasis).

A clean frame passes through the network once, presented as slightly noisy, and is remembered as keys and values; the
frames that are drawn attend to those. A frame attends to ``context`` frames before it, so dropping older ones changes
nothing that is still looked at directly; what they left in the frames after them stays.

Memory: ``keys``, ``values`` (b, depth, n, heads, context, d), newest last; ``held`` (b,) int64, how many are there;
``seen`` (b,) int64, how many there have been.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dreamenv.backbones.denoising.config import DenoisingConfig
from dreamenv.backbones.denoising.networks import Condition, FrameNetwork, Remembered
from dreamenv.diffusion.objective import stabilised
from dreamenv.diffusion.targets import per_frame
from dreamenv.nn.attention import Cache
from dreamenv.nn.dit import DiT

__all__ = ["CausalFrames"]


class CausalFrames(FrameNetwork):
    """Draws any number of frames together.

    Args:
        config: the transformer's size, and how context is presented.
        frame_shape: (c, h, w).
        action_size: width of an action's vector.
    """

    def __init__(self, config: DenoisingConfig, frame_shape: tuple[int, int, int], action_size: int) -> None:
        super().__init__()
        self.config, self.process, self.target = config, config.process, config.make_target()
        self.condition = Condition(action_size, config.condition)
        self.dit = DiT(frame_shape, config.condition, config.depth, config.heads, config.patch, config.context)

    def begin(self, like: Tensor) -> Remembered:
        """No frame."""
        b, dit = like.shape[0], self.dit
        size = (b, self.config.depth, dit.rows * dit.columns, dit.heads, self.config.context, dit.head_width)
        nothing = torch.zeros(b, dtype=torch.int64, device=like.device)
        return {"keys": like.new_zeros(size), "values": like.new_zeros(size), "held": nothing, "seen": nothing}

    def remember(self, past: Mapping[str, Tensor], frames: Tensor, actions: Tensor) -> Remembered:
        """Run them through the network and keep the keys and values of the last ones."""
        w, f = self.config.context, frames.shape[1]
        shown, level = stabilised(self.process, frames, self.config.stabilisation, self.config.manner)
        _, keys, values = self._run(shown, level, actions, self._caches(past))
        return {
            "keys": torch.cat((past["keys"], keys), dim=-2)[..., -w:, :],
            "values": torch.cat((past["values"], values), dim=-2)[..., -w:, :],
            "held": (past["held"] + f).clamp_max(w),
            "seen": past["seen"] + f,
        }

    def predict(self, past: Mapping[str, Tensor], noisy: Tensor, level: Tensor, actions: Tensor) -> Tensor:
        """Attend to what is remembered, and to each other, earlier ones only."""
        return self._run(noisy, level, actions, self._caches(past))[0]

    def predict_all(self, clean: Tensor, noisy: Tensor, level: Tensor, actions: Tensor) -> Tensor:
        """All noisy frames together, which are each other's context."""
        del clean
        return self._run(noisy, level, actions, None)[0]

    def _run(
        self, frames: Tensor, level: Tensor, actions: Tensor, past: Sequence[Cache] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        condition = self.condition(self.process.time(level), actions)
        output: tuple[Tensor, Tensor, Tensor] = self.dit(
            frames * per_frame(self.target.scale(level), frames), condition, past
        )
        return output

    @staticmethod
    def _caches(past: Mapping[str, Tensor]) -> list[Cache]:
        layers = zip(past["keys"].unbind(1), past["values"].unbind(1), strict=True)
        return [Cache(keys, values, past["held"], past["seen"]) for keys, values in layers]
