"""Oasis worlds of a tiny size, for tests."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np
import torch
from drifting import make_starts
from torch import Tensor, nn

from dreamenv.backbones.denoising import DenoiserTraining
from dreamenv.codecs.oasis_vae import OasisVAEConfig
from dreamenv.denoisers.base import DenoiserInput, DenoiserShape
from dreamenv.denoisers.oasis import OasisConfig
from dreamenv.importers.adapter import Options, load_weights, to_published
from dreamenv.importers.oasis import OasisAdapter
from dreamenv.world import World

KEYS = Path(__file__).parent / "data" / "public" / "oasis_keys.txt"
SIZE = (16, 32)
OPTIONS = Options(size=SIZE, heads=2, encoder_heads=2, decoder_heads=2, sampling_steps=2)
NETWORK, CODEC = "oasis500m.safetensors", "vit-l-20.safetensors"
SPACE, TIME = "blocks.0.s_attn.rotary_emb.freqs", "blocks.0.t_attn.rotary_emb.freqs"
DENOISER = OasisConfig(width=16, depth=2, heads=2)
VAE = OasisVAEConfig(
    patch=4, latent_channels=4, encoder_width=32, encoder_depth=1, encoder_heads=2,
    decoder_width=32, decoder_depth=2, decoder_heads=2,
)  # fmt: skip
adapter = OasisAdapter()


def shape(latent: int = 4, rows: int = 4, columns: int = 8) -> DenoiserShape:
    return DenoiserShape(frame_shape=(latent, rows, columns), discrete=(True,) * 25)


def recorded(part: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes that were recorded of the public modules."""
    found = {}
    for line in KEYS.read_text().splitlines()[1:]:
        where, count, name, *size = line.split()
        if where == part:
            found |= {name.replace("*", str(i)): tuple(map(int, size)) for i in range(int(count))}
    return found


def normal(random: np.random.Generator, *size: int) -> Tensor:
    """Random numbers that are the same on every processor, which torch's are not."""
    return torch.from_numpy(random.standard_normal(size)).to(torch.get_default_dtype())


def randomised(module: nn.Module, seed: int) -> nn.Module:
    random = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * normal(random, *parameter.shape))
    return module


def tiny_network(**changes) -> nn.Module:
    return randomised(dataclasses.replace(DENOISER, **changes).build(shape()), 0).eval()


def tiny_files(latent: int = 4) -> list[dict[str, Tensor]]:
    """Random weights of a tiny network and a tiny codec, as they would be published."""
    network = randomised(DENOISER.build(shape(latent)), seed=0)
    autoencoder = randomised(dataclasses.replace(VAE, latent_channels=latent).build((3, *SIZE)), seed=1)
    names = published_size().names
    return [to_published(network, names["denoiser"]), to_published(autoencoder, names["codec.autoencoder"])]


@functools.cache
def published_size():
    """What the adapter reads from tensors of the published shapes, which hold no values but for rotary speeds."""
    files = [
        {
            name: torch.zeros(size) if name.endswith(".freqs") else torch.empty(size, device="meta")
            for name, size in recorded(part).items()
        }
        for part in ("network", "codec")
    ]
    return adapter.read(files, Options())


def tiny_world(actions: str | None = None, context: int = 31, **changes) -> World:
    """A world of them; changes are of its denoiser."""
    architecture = adapter.read(tiny_files(), dataclasses.replace(OPTIONS, actions=actions))
    denoiser = dataclasses.replace(architecture.config.denoiser, context=context, **changes)
    config = dataclasses.replace(
        architecture.config, denoiser=denoiser, training=DenoiserTraining(sequence_length=context)
    )
    model = load_weights(dataclasses.replace(architecture, config=config))
    starts = make_starts(4, 16, architecture.spec.action_space)
    wide = {
        "first_frames": np.concatenate([starts.first_frames] * 2, axis=2),
        "frames": np.concatenate([starts.frames] * 2, axis=3),
    }
    return World(model, config, dataclasses.replace(starts, **wide), architecture.provenance)


def restarting(world: World) -> World:
    return world.replaced(denoiser=dataclasses.replace(world.config.denoiser, window="restarts"))


@dataclasses.dataclass
class Sequence:
    """Clean latents as they are presented, under the label of a noise level, noisy ones, and actions."""

    clean: Tensor
    noisy: Tensor
    time: Tensor
    actions: Tensor

    def context(self, start: int, stop: int, rows: slice = slice(None)) -> DenoiserInput:
        frames = self.clean[rows, start:stop]
        return DenoiserInput(frames, torch.full(frames.shape[:2], 14.0), self.actions[rows, start:stop])

    def given(self, start: int, stop: int, rows: slice = slice(None)) -> DenoiserInput:
        at = rows, slice(start, stop)
        return DenoiserInput(self.noisy[at], self.time[at], self.actions[at])

    def mixed(self, start: int, at: int, rows: slice = slice(None)) -> DenoiserInput:
        """Context from one frame on, and the noisy frame after it."""
        past, now = self.context(start, at, rows), self.given(at, at + 1, rows)
        return DenoiserInput(
            *(torch.cat((getattr(past, n), getattr(now, n)), dim=1) for n in ("frames", "time", "actions"))
        )


def sequence(rows: int = 2, frames: int = 7) -> Sequence:
    random = np.random.default_rng(5)
    clean, noisy = normal(random, 2, rows, frames, 4, 4, 8).unbind(0)
    time = torch.from_numpy(random.integers(1000, size=(rows, frames))).to(clean.dtype)
    return Sequence(clean, noisy, time, torch.from_numpy(random.random((rows, frames, 25))).to(clean.dtype))
