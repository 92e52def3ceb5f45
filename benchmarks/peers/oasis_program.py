"""Run Oasis's public program (etched-ai/open-oasis) unchanged, including its own sampling.

`generate.main` reads two safetensors files and writes a video. Random weights are saved in its format, and ours reads
the same files. What needs CUDA, torchvision or timm is replaced: images, actions and the video are passed as arrays,
the feed-forward network of timm is two linear layers, and the device is set. On a CPU it computes in float32, on a GPU
in float16. The noise that it samples is recorded.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import sys
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_model
from torch import Tensor

from dreamenv.benchmarks.peers.common import Where, peer_code, randomised
from dreamenv.benchmarks.peers.layers import Mlp
from dreamenv.importers.adapter import Options, load_weights
from dreamenv.importers.checkpoints import read_tensors
from dreamenv.importers.oasis import OasisAdapter

__all__ = ["FEWER", "PUBLISHED", "SMALL", "STEPS", "WINDOW", "Program", "Rollout", "Seconds", "Size"]

Seconds = NDArray[np.float64]  # (2,) wall-clock time, and processor time of this process
WINDOW = 32  # frames of the public code's window, including the sampled one
STEPS = 10


@dataclass(frozen=True, kw_only=True)
class Size:
    """The sizes of the program's models: arguments of its own classes."""

    name: str
    frames: tuple[int, int]  # pixels
    patch: int  # of the codec
    network: dict[str, Any]
    codec: dict[str, Any]
    heads: int | None = None

    @property
    def places(self) -> tuple[int, int]:
        """Rows and columns of a latent."""
        return self.frames[0] // self.patch, self.frames[1] // self.patch


SMALL = Size(
    name="small",
    frames=(72, 128),
    patch=4,
    network={"hidden_size": 128, "depth": 4, "num_heads": 4},
    codec={"latent_dim": 16, "enc_dim": 128, "enc_depth": 1, "enc_heads": 4,
           "dec_dim": 128, "dec_depth": 2, "dec_heads": 4},
    heads=4,
)  # fmt: skip
FEWER = dataclasses.replace(SMALL, name="small, 40 tokens", frames=(40, 64))
PUBLISHED = Size(
    name="published",
    frames=(360, 640),
    patch=20,
    network={"hidden_size": 1024, "depth": 16, "num_heads": 16},
    codec={"latent_dim": 16, "enc_dim": 1024, "enc_depth": 6, "enc_heads": 16,
           "dec_dim": 1024, "dec_depth": 12, "dec_heads": 16},
)  # fmt: skip


@dataclass
class Rollout:
    """What the public program drew, and with what."""

    noise: list[Tensor] = field(default_factory=list)  # (b, c, h, w) of each frame that it drew
    latents: Tensor | None = None  # (f, n, c), as it decodes them
    times: list[Seconds] = field(default_factory=list)  # when it began each frame, and when it was done
    decoding: Seconds = field(default_factory=lambda: np.zeros(2))  # per frame


class Program:
    """The public program with random weights in files.

    Args:
        folder: of the public code.
        size: of its models.
        files: folder to write weights to.
        where: the device it computes on.
    """

    def __init__(self, folder: Path, size: Size, files: Path, where: Where | None = None) -> None:
        self.size, self.files, self.where = size, files, where or Where()
        with _replaced_packages(), peer_code(folder), mock.patch("torch.cuda.is_available", return_value=True):
            generate: Any = importlib.import_module("generate")
        self.program: Any = generate
        self.program.device = str(self.where.device)
        h, w = size.places
        make_network, make_codec = (
            self.program.DiT_models["DiT-S/2"],
            self.program.VAE_models["vit-l-20-shallow-encoder"],
        )
        network, codec = make_network.__globals__["DiT"], make_codec.__globals__["AutoencoderKL"]
        height, width = size.frames
        self.make_network: Callable[[], Any] = lambda: network(
            input_h=h, input_w=w, patch_size=2, in_channels=size.codec["latent_dim"], max_frames=WINDOW, **size.network
        )
        self.make_codec: Callable[[], Any] = lambda: codec(
            input_height=height, input_width=width, patch_size=size.patch, **size.codec
        )
        for name, make, seed in (("network", self.make_network, 0), ("codec", self.make_codec, 1)):
            model = make()
            # No weights, though they are saved with them.
            speeds = {key: one.data.clone() for key, one in model.named_parameters() if key.endswith(".freqs")}
            randomised(model, seed=seed).load_state_dict(speeds, strict=False)
            save_model(model, str(files / f"{name}.safetensors"))

    def models(self) -> tuple[Any, Any]:
        """Return network and codec, loaded as the program loads them."""
        made = self.make_network(), self.make_codec()
        for model, name in zip(made, ("network", "codec"), strict=True):
            self.program.load_model(model, str(self.files / f"{name}.safetensors"))
        return made[0].eval(), made[1].eval()

    def now(self) -> Seconds:
        """Read both clocks, after the device is synchronised."""
        self.where.wait()
        return np.array([time.perf_counter(), time.process_time()])

    def rollout(self, prompt: Tensor, actions: Tensor, frames: int, steps: int = STEPS, timed: bool = False) -> Rollout:
        """Run the program on prompt frames (p, c, h, w) uint8 and actions (t, 25), until there are so many frames.

        If ``timed``, the prompt is not encoded, and only two frames are decoded.
        """
        rollout = Rollout()
        original = torch.randn

        def randn(*shape: Any, **settings: Any) -> Tensor:
            noise = original(*shape, **settings)
            rollout.noise.append(noise[:, 0].clone())
            return noise

        def counted(steps: range) -> Iterator[int]:
            for step in steps:
                rollout.times.append(self.now())
                yield step
            rollout.times.append(self.now())

        def make_codec() -> Any:
            codec = self.make_codec()
            plain = codec.decode

            def decode(latents: Tensor) -> Tensor:
                rollout.latents, began = latents, self.now()
                pictures: Tensor = plain(latents[:2] if timed else latents)
                rollout.decoding = (self.now() - began) / len(pictures)
                return pictures[:1].expand(len(latents), -1, -1, -1) if timed else pictures

            if timed:
                places = self.size.places[0] * self.size.places[1]
                noise = torch.Generator().manual_seed(6)
                mean = original((len(prompt), places, self.size.codec["latent_dim"]), generator=noise)
                codec.encode = lambda _: types.SimpleNamespace(mean=mean.to(self.where.device))
            codec.decode = decode
            return codec

        program, files = self.program, self.files
        arguments = argparse.Namespace(
            oasis_ckpt=str(files / "network.safetensors"), vae_ckpt=str(files / "codec.safetensors"),
            n_prompt_frames=len(prompt), num_frames=frames, prompt_path="video.mp4", video_offset=None,
            actions_path="video.one_hot_actions.pt", ddim_steps=steps, output_path="video", fps=20,
        )  # fmt: skip
        with contextlib.ExitStack() as stack:
            enter = stack.enter_context
            enter(mock.patch.dict(program.DiT_models, {"DiT-S/2": self.make_network}))
            enter(mock.patch.dict(program.VAE_models, {"vit-l-20-shallow-encoder": make_codec}))
            enter(mock.patch.dict(program.load_prompt.__globals__, {"read_video": lambda *_, **__: (prompt,)}))
            enter(mock.patch.object(program, "tqdm", counted))
            enter(mock.patch.object(program, "write_video"))
            enter(mock.patch.object(program.torch, "randn", randn))
            enter(mock.patch.object(program.torch, "load", return_value=actions))
            enter(contextlib.redirect_stdout(None))
            program.main(arguments)
        return rollout

    def world(self, steps: int = STEPS, **settings: Any) -> Any:
        """Return our model with the same weights; ``settings`` are of `OasisConfig`."""
        files = [read_tensors(self.files / f"{name}.safetensors") for name in ("codec", "network")]
        options = Options(size=self.size.frames, heads=self.size.heads, actions="vector", sampling_steps=steps)
        architecture = OasisAdapter().read(files, options)
        published: Any = architecture.config
        denoiser = dataclasses.replace(published.denoiser, **settings)
        config = dataclasses.replace(published, denoiser=denoiser, quantize_frames=False)
        return load_weights(dataclasses.replace(architecture, config=config))


@contextlib.contextmanager
def _replaced_packages() -> Iterator[None]:
    """Replace what the public code imports of torchvision and timm."""

    def module(name: str, **values: Any) -> types.ModuleType:
        made = types.ModuleType(name)
        made.__dict__.update(values)
        return made

    def unused(*_: Any, **__: Any) -> None:
        raise AssertionError("the benchmark passes images itself")

    made = [
        module("torchvision"),
        module("torchvision.io", read_image=unused, read_video=unused, write_video=unused),
        module("torchvision.transforms"),
        module("torchvision.transforms.functional", resize=lambda pictures, _: pictures),
        module("timm"),
        module("timm.models"),
        module("timm.models.vision_transformer", Mlp=Mlp),
        module("timm.layers"),
        module("timm.layers.helpers", to_2tuple=lambda value: (value, value)),
    ]
    with mock.patch.dict(sys.modules, {one.__name__: one for one in made}):
        yield
