"""Real frames as a world reconstructs them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from dreamenv.capabilities import SupportsReconstruct
from dreamenv.errors import ConfigError
from dreamenv.frames import frames_from_model, frames_to_model
from dreamenv.world import World

__all__ = ["NEEDS_WORLD", "Reconstruction"]

NEEDS_WORLD = "reconstructed frames: give the world that reconstructs them"


class Reconstruction:
    """Turns real frames (n, h, w, c) uint8 into what a world keeps of them, of the same shape.

    Dreamt frames lack details that the world never learned, such as textures and small distant objects. To a policy
    that learned from them, real frames with all their details are out of distribution.

    Args:
        world: whose model does it, where the model is.

    Raises:
        ConfigError: no world, or one whose model cannot.
    """

    def __init__(self, world: World | None) -> None:
        if world is None:
            raise ConfigError(f"this needs {NEEDS_WORLD}.")
        if not isinstance(world.model, SupportsReconstruct):
            raise ConfigError(f"a {type(world.model).__name__} cannot reconstruct frames; leave reconstructed out.")
        self._model, self._device = world.model, world.device
        world.model.eval()

    @torch.inference_mode()
    def __call__(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Reconstruct frames."""
        pixels = frames_to_model(frames, self._device, channels_last=True)
        return frames_from_model(self._model.reconstruct(pixels)).cpu().numpy()
