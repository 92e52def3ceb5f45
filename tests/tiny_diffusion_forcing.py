"""Diffusion Forcing worlds of a tiny size, for tests."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from dreamenv.backbones.denoising import DenoisingConfig
from dreamenv.denoisers.base import DenoiserInput, DenoiserShape
from dreamenv.denoisers.diffusion_forcing import DiffusionForcingConfig
from dreamenv.diffusion.context_noise import Stabilization
from dreamenv.diffusion.process import VariancePreserving
from dreamenv.diffusion.sampler import DDIM
from dreamenv.diffusion.target import Velocity
from dreamenv.heads.no_reward import NoRewardHeadConfig
from dreamenv.importers.diffusion_forcing import checkpoint_tensors
from dreamenv.world_model import WorldModelSpec

PREFIX = "diffusion_model."
NET = PREFIX + "model.module."
SIZES = DiffusionForcingConfig(context=3, width=8, channels=(8, 16), heads=2, head_size=4)
SHAPE = DenoiserShape(frame_shape=(3, 16, 16), discrete=(True,))
SPEC = WorldModelSpec(frame_shape=SHAPE.frame_shape, action_space=gym.spaces.Discrete(1), frame_rate=10.0)
PROCESS = VariancePreserving(schedule="sigmoid", time_scale=1000.0)
CONTEXT_NOISE = Stabilization(stabilization_level=14.0)
CONFIG = DenoisingConfig(
    denoiser=SIZES, process=PROCESS, target=Velocity(), sampler=DDIM(steps=2, init_noise_sigma=1.0),
    context_noise=CONTEXT_NOISE, quantize_frames=False, head=NoRewardHeadConfig(),
)  # fmt: skip
KEYS = Path(__file__).parent / "data" / "public" / "diffusion_forcing_keys.txt"
TIME_SPEEDS = "mid_block.2.wrapper.module.attn_block.attn.rotary_emb.freqs"
ROWS, FRAMES = 2, 5


def normal(random: np.random.Generator, *size: int) -> Tensor:
    """Random numbers that are the same on every processor, which torch's are not."""
    return torch.from_numpy(random.standard_normal(size)).to(torch.get_default_dtype())


def randomised(network: nn.Module) -> nn.Module:
    random = np.random.default_rng(0)
    with torch.no_grad():
        for name, parameter in sorted(network.named_parameters()):
            drawn = 0.1 * normal(random, *parameter.shape)
            parameter.copy_(drawn + 1 if ".norm1.weight" in name or ".norm2.weight" in name else drawn)
    return network.eval()


def awake(config: DenoisingConfig = CONFIG):
    """A world whose every weight is random."""
    model = config.build(SPEC).eval()
    randomised(model.denoiser)
    return model


def tiny_network(**changes) -> nn.Module:
    return randomised(dataclasses.replace(SIZES, **changes).build(SHAPE))


def pooled(pooling: str) -> DenoisingConfig:
    return dataclasses.replace(CONFIG, denoiser=dataclasses.replace(SIZES, pooling=pooling))


@functools.cache
def tiny() -> dict[str, Tensor]:
    return checkpoint_tensors(tiny_network(), PROCESS)


def checkpoint(**changes: Tensor) -> dict[str, Tensor]:
    """The tensors of a tiny published model."""
    return {**tiny(), **changes}


@dataclasses.dataclass
class Sequence:
    """Clean frames as they are presented, and noisy ones."""

    context: DenoiserInput
    noisy: DenoiserInput

    def past(self, start: int, stop: int, rows: slice = slice(None)) -> DenoiserInput:
        return part(self.context, rows, slice(start, stop))

    def now(self, at: int, rows: slice = slice(None)) -> DenoiserInput:
        return part(self.noisy, rows, slice(at, at + 1))

    def mixed(self, start: int, at: int) -> DenoiserInput:
        """Context from one frame on, and the noisy frame after it."""
        parts = zip(values(self.past(start, at)), values(self.now(at)), strict=True)
        return DenoiserInput(*(torch.cat(pair, dim=1) for pair in parts))


def values(given: DenoiserInput) -> tuple[Tensor, Tensor, Tensor]:
    return given.frames, given.time, given.actions


def part(given: DenoiserInput, rows: slice, frames: slice) -> DenoiserInput:
    return DenoiserInput(*(value[rows, frames] for value in values(given)))


def sequence() -> Sequence:
    random = np.random.default_rng(1)
    clean, noisy = normal(random, 2, ROWS, FRAMES, *SHAPE.frame_shape).unbind(0)
    frames, level = CONTEXT_NOISE.present(PROCESS, clean.clamp(-1, 1))
    time = torch.from_numpy(random.integers(1000, size=level.shape)).to(clean.dtype)
    nothing = torch.zeros(*level.shape, 1)
    return Sequence(DenoiserInput(frames, level.to(clean.dtype), nothing), DenoiserInput(noisy, time, nothing))


def recorded(model: int) -> dict[str, tuple[int, ...]]:
    lines = [line.split() for line in KEYS.read_text().splitlines() if not line.startswith("#")]
    return {PREFIX + line[0]: tuple(int(size) for size in line[1 + model].split("x")) for line in lines}
