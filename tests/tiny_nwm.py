"""Navigation World Models of a tiny size, for tests."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from dreamenv.data.starts import Starts
from dreamenv.denoisers.base import DenoiserShape
from dreamenv.denoisers.nwm import NWMConfig
from dreamenv.importers.adapter import Options, load_weights
from dreamenv.importers.nwm import NWMAdapter
from dreamenv.world import World

KEYS = Path(__file__).parent / "data" / "public" / "nwm_keys.txt"
PUBLISHED_CODEC, TINY_CODEC = (128, 256, 512, 512), (32, 32)
SIDE, WIDTH, DEPTH, CONTEXT = 16, 24, 2, 3  # frames of 16 x 16, latents of 8 x 8, 16 tokens
SHAPE = DenoiserShape(frame_shape=(4, 8, 8), discrete=(False,) * 3)
TINY = NWMConfig(context=CONTEXT, embed_dim=WIDTH, depth=DEPTH, heads=2)
Tensors = dict[str, Tensor]


def diffusers_codec(channels: tuple[int, ...]) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=channels, layers_per_block=2, latent_channels=4, norm_num_groups=32,
        down_block_types=("DownEncoderBlock2D",) * len(channels), up_block_types=("UpDecoderBlock2D",) * len(channels),
    ).eval()  # fmt: skip


def recorded_keys(depth: int = 28) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the published XL."""
    keys = {}
    for line in KEYS.read_text().splitlines():
        name, shape = line.split(" ", 1)
        for block in range(depth) if "*" in name else (0,):
            keys[name.replace("*", str(block))] = tuple(int(size) for size in re.findall(r"\d+", shape))
    return keys


def tiny_network(seed: int = 0) -> Tensors:
    """Tensors of the published names, for a tiny transformer."""
    sizes = {1152: WIDTH, 384: WIDTH // 3, 3456: 3 * WIDTH, 4608: 4 * WIDTH, 12672: 11 * WIDTH, 2304: 2 * WIDTH}
    sizes |= {196: 16, 5: CONTEXT + 1}
    generator, tensors = torch.Generator().manual_seed(seed), {}
    for name, shape in recorded_keys(DEPTH).items():
        small = tuple(sizes.get(size, size) for size in shape)
        tensors[name] = torch.randn(small, generator=generator) * (
            0.1 if len(small) < 2 else math.prod(small[1:]) ** -0.5
        )
    return tensors


def tiny_codec(seed: int = 1) -> Tensors:
    codec, generator = diffusers_codec(TINY_CODEC), torch.Generator().manual_seed(seed)
    for parameter in codec.parameters():
        fan = parameter[0].numel() if parameter.ndim > 1 else 100
        noise = torch.randn(parameter.shape, generator=generator) * fan**-0.5
        parameter.data = noise if parameter.ndim > 1 else noise + parameter.data.round()
    return {name: tensor.detach() for name, tensor in codec.state_dict().items()}


def tiny_starts(count: int = 2, length: int = CONTEXT) -> Starts:
    generator = np.random.default_rng(0)
    return Starts(
        first_frames=generator.integers(0, 256, (count, SIDE, SIDE, 3), np.uint8),
        actions=generator.standard_normal((count, length, 3)).astype(np.float32),
        frames=generator.integers(0, 256, (count, length, SIDE, SIDE, 3), np.uint8),
        lengths=np.full(count, length),
        at_episode_start=np.ones(count, bool),
    )


def tiny_world(**options: Any) -> World:
    architecture = NWMAdapter().read([tiny_network(), tiny_codec()], Options(heads=2, sampling_steps=4, **options))
    return World(load_weights(architecture), architecture.config, tiny_starts())
