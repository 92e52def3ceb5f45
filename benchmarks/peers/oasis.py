"""Oasis beside its public code (etched-ai/open-oasis), with the same weights.

The public program itself is run, `generate.main`, from two safetensors files to the film: nothing of its sampling is
imitated here. Random weights are written as it would save them, and both read those files. What it lacks on a machine
without CUDA, torchvision or timm stands in for it: reading pictures and actions and writing a film hand arrays over,
the feed-forward network of timm is two linear layers, and it is told what its device is. On the processor it computes
in float32, on a GPU in float16. The noise that it draws is recorded, and ours is given the same.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import sys
import tempfile
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
from torch import Tensor, nn

from dreamenv.backbones.denoising import model as denoising_model
from dreamenv.backbones.denoising.networks import Asked
from dreamenv.benchmarks.peers.common import Where, peer_code, randomised, relative_difference
from dreamenv.benchmarks.peers.layers import Mlp
from dreamenv.importers.adapter import Options, fitted
from dreamenv.importers.checkpoints import read_tensors
from dreamenv.importers.oasis import OasisAdapter
from dreamenv.public.oasis_codec import OasisCodecSizes

__all__ = ["parity", "speed"]

_Seconds = NDArray[np.float64]  # (2,) on the wall's clock, and of the processor for this process
_WINDOW = 32  # frames of the public code's window, with the one that is drawn
_PASSES = 10


@dataclass(frozen=True, kw_only=True)
class _Size:
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


_SMALL = _Size(
    name="small",
    frames=(72, 128),
    patch=4,
    network={"hidden_size": 128, "depth": 4, "num_heads": 4},
    codec={"latent_dim": 16, "enc_dim": 128, "enc_depth": 1, "enc_heads": 4,
           "dec_dim": 128, "dec_depth": 2, "dec_heads": 4},
    heads=4,
)  # fmt: skip
_FEWER = dataclasses.replace(_SMALL, name="small, 40 tokens", frames=(40, 64))
_PUBLISHED = _Size(
    name="published",
    frames=(360, 640),
    patch=20,
    network={"hidden_size": 1024, "depth": 16, "num_heads": 16},
    codec={"latent_dim": 16, "enc_dim": 1024, "enc_depth": 6, "enc_heads": 16,
           "dec_dim": 1024, "dec_depth": 12, "dec_heads": 16},
)  # fmt: skip


@dataclass
class _Film:
    """What the public program drew, and with what."""

    noise: list[Tensor] = field(default_factory=list)  # (b, c, h, w) of each frame that it drew
    latents: Tensor | None = None  # (f, n, c), as it decodes them
    moments: list[_Seconds] = field(default_factory=list)  # when it began each frame, and when it was done
    decoding: _Seconds = field(default_factory=lambda: np.zeros(2))  # per frame


class _Peer:
    """The public program with random weights in files.

    Args:
        folder: of the public code.
        size: of its models.
        files: folder to write weights to.
        where: the device it computes on.
    """

    def __init__(self, folder: Path, size: _Size, files: Path, where: Where | None = None) -> None:
        self.size, self.files, self.where = size, files, where or Where()
        with _stand_ins(), peer_code(folder), mock.patch("torch.cuda.is_available", return_value=True):
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
            input_h=h, input_w=w, patch_size=2, in_channels=size.codec["latent_dim"], max_frames=_WINDOW, **size.network
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

    def now(self) -> _Seconds:
        """Read both clocks, once what was begun has come to its end."""
        self.where.wait()
        return np.array([time.perf_counter(), time.process_time()])

    def film(self, prompt: Tensor, actions: Tensor, frames: int, passes: int = _PASSES, timed: bool = False) -> _Film:
        """Run the program on prompt frames (p, c, h, w) uint8 and actions (t, 25), until there are so many frames.

        Where it is only ``timed``, the prompt is not encoded, and two frames alone are decoded.
        """
        film = _Film()
        draw = torch.randn

        def randn(*shape: Any, **settings: Any) -> Tensor:
            noise = draw(*shape, **settings)
            film.noise.append(noise[:, 0].clone())
            return noise

        def counted(steps: range) -> Iterator[int]:
            for step in steps:
                film.moments.append(self.now())
                yield step
            film.moments.append(self.now())

        def make_codec() -> Any:
            codec = self.make_codec()
            plain = codec.decode

            def decode(latents: Tensor) -> Tensor:
                film.latents, began = latents, self.now()
                pictures: Tensor = plain(latents[:2] if timed else latents)
                film.decoding = (self.now() - began) / len(pictures)
                return pictures[:1].expand(len(latents), -1, -1, -1) if timed else pictures

            if timed:
                places = self.size.places[0] * self.size.places[1]
                noise = torch.Generator().manual_seed(6)
                mean = draw((len(prompt), places, self.size.codec["latent_dim"]), generator=noise)
                codec.encode = lambda _: types.SimpleNamespace(mean=mean.to(self.where.device))
            codec.decode = decode
            return codec

        program, files = self.program, self.files
        asked = argparse.Namespace(
            oasis_ckpt=str(files / "network.safetensors"), vae_ckpt=str(files / "codec.safetensors"),
            n_prompt_frames=len(prompt), num_frames=frames, prompt_path="film.mp4", video_offset=None,
            actions_path="film.one_hot_actions.pt", ddim_steps=passes, output_path="film", fps=20,
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
            program.main(asked)
        return film

    def world(self, **settings: Any) -> Any:
        """Return our model with the same weights; ``settings`` are of `OasisSizes`."""
        files = [read_tensors(self.files / f"{name}.safetensors") for name in ("codec", "network")]
        options = Options(size=self.size.frames, heads=self.size.heads, actions="vector")
        architecture = OasisAdapter().read(files, options)
        public: Any = architecture.config.public
        config = dataclasses.replace(
            architecture.config, public=dataclasses.replace(public, **settings), quantise=False
        )
        return fitted(dataclasses.replace(architecture, config=config))


def parity(peer: Path, *, full: bool) -> list[dict[str, Any]]:
    """Compare outputs: of each network, and of films that go on beyond the window.

    Args:
        peer: folder of the public code.
        full: of the published size too.

    Returns:
        A row per comparison; ``relative_difference`` is the largest difference over the largest value of theirs. Rows
        of films have ``by_frame`` too.
    """
    rows = _outputs(peer, _SMALL, frames=_WINDOW) + _films(peer, _FEWER, frames=_WINDOW + 12)
    return rows + (
        _outputs(peer, _PUBLISHED, frames=2) + _films(peer, _PUBLISHED, frames=3, windows=("slides",)) if full else []
    )


def speed(peer: Path, *, full: bool, where: Where | None = None) -> dict[str, Any]:
    """Compare frames per second with a full window: the public program, and ours with either kind of window.

    Seconds per frame are of drawing and decoding it, on the wall's clock and of the processor: on a machine that others
    use as well, the second is the one to trust. Theirs are taken in its own loop, where it begins a frame, and of the
    decoding that it does at the end. Rounds of theirs and ours take turns; ``ratios`` has one per round. Windows that
    slide are timed with weights in bfloat16 as well.

    Args:
        peer: folder of the public code.
        full: of the published size too: there one pass of each is timed, and a frame is counted as ten of them, with
            what a frame costs once (remembering, decoding) added.
        where: the device, and whether ours is compiled, too.
    """
    where = where or Where()
    result = {"small": _race(peer, _SMALL, where, rounds=3, frames=2, passes=_PASSES)}
    if full:
        result["published"] = _race(peer, _PUBLISHED, where, rounds=1, frames=1, passes=1, windows=("slides",))
    return result


def _outputs(peer: Path, size: _Size, frames: int) -> list[dict[str, Any]]:
    scale = OasisCodecSizes().scale
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        their = _Peer(peer, size, Path(folder))
        network, codec = their.models()
        generator = torch.Generator().manual_seed(2)
        h, w = size.places
        noisy = torch.randn((1, frames, size.codec["latent_dim"], h, w), generator=generator)
        level = torch.randint(1000, (1, frames), generator=generator)
        actions = _actions(frames)[None]
        pictures = torch.rand((1, 2, 3, *size.frames), generator=generator)
        said = network(noisy, level, actions)
        mean = codec.encode(2 * pictures[0] - 1).mean * scale
        drawn = codec.decode(mean / scale)
        counts = [_count(network), _count(codec)]
        del network, codec  # so that theirs and ours are not in memory together
        ours = their.world()
        heard = ours.network.predict_all(noisy, Asked(noisy, level.float(), actions))
        latents = ours.codec.encode(pictures)
        shown = ours.codec.decode(latents)[0]
        cells = mean.unflatten(1, latents.shape[-2:]).movedim(-1, 1)
        return [
            _row(f"network, {frames} frames", size, counts[0], heard, said),
            _row("codec, encoder", size, counts[1], latents[0], cells),
            _row("codec, decoder", size, counts[1], shown, ((drawn + 1) / 2).clamp(0, 1)),
        ]


def _films(
    peer: Path, size: _Size, frames: int, windows: tuple[str, ...] = ("restarts", "slides")
) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        their = _Peer(peer, size, Path(folder))
        film = their.film(_prompt(size, 1), _actions(frames - 1), frames)
        rows = []
        for window in windows:
            world = their.world(window=window)
            latents = _dream(world, film, _prompt(size, 1), _actions(frames - 1))
            assert film.latents is not None
            theirs = film.latents.unflatten(1, latents.shape[-2:]).movedim(-1, 1)[1:]
            by_frame = [relative_difference(one, other) for one, other in zip(latents, theirs, strict=True)]
            row = _row(f"film of {frames} frames, window {window}", size, _count(world.network), latents, theirs)
            del world
            rows.append({**row, "by_frame": by_frame})
        return rows


def _dream(world: Any, film: _Film, prompt: Tensor, actions: Tensor) -> Tensor:
    """Return the latents (f, c, h, w), as they are decoded, that ours draws with the noise of a film."""
    decoded, plain = [], world.codec.decode

    def decode(latents: Tensor) -> Tensor:
        decoded.append(latents[0] * world.codec.latent_std)
        frames: Tensor = plain(latents)
        return frames

    with (
        mock.patch.object(denoising_model, "normal", side_effect=film.noise),
        mock.patch.object(world.codec, "decode", decode),
    ):
        state = _begun(world, prompt, actions)
        world.imagine(state, actions[None, len(prompt) - 1 :])
    return torch.cat(decoded)


def _begun(world: Any, prompt: Tensor, actions: Tensor) -> Any:
    frames = prompt[None].float() / 255
    state = world.start(frames[:, 0], torch.zeros(1, dtype=torch.int64, device=frames.device))
    return world.observe(state, actions[None, : len(prompt) - 1], frames[:, 1:]) if len(prompt) > 1 else state


def _race(
    peer: Path,
    size: _Size,
    where: Where,
    *,
    rounds: int,
    frames: int,
    passes: int,
    windows: tuple[str, ...] = ("slides", "restarts"),
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        their = _Peer(peer, size, Path(folder), where)
        prompt, actions = _prompt(size, _WINDOW), _actions(_WINDOW - 1 + frames)
        seen, acted = prompt[:-1].to(where.device), actions.to(where.device)
        worlds: dict[str, Any] = {}
        for window in windows:
            ways = where.ways(their.world(window=window))
            kept = ways if window == "slides" else ["dreamenv"]
            worlds.update({f"{name}, {window}": ways[name] for name in kept})
        states = {}
        for name, world in worlds.items():
            world.plan = dataclasses.replace(world.config, passes=passes).make_plan()
            past = torch.randn((1, _WINDOW - 1, *world.drawn_shape), generator=torch.Generator().manual_seed(6))
            past = past.to(where.device)
            with mock.patch.object(world.codec, "encode", side_effect=[past[:, :1], past[:, 1:]]):
                states[name] = _begun(world, seen, acted)
        seconds: dict[str, list[_Seconds]] = {name: [] for name in ("peer", *worlds)}
        warm_up = int(where.compile or where.device.type != "cpu")
        for _ in range(warm_up + rounds):
            film = their.film(prompt, actions, _WINDOW + frames, passes, timed=True)
            drawing = (film.moments[-1] - film.moments[0]) / frames
            seconds["peer"].append(drawing * _PASSES / passes + film.decoding)
            for name, world in worlds.items():
                began = their.now()
                with _clock(world, their.now) as once:
                    _, states[name] = world.imagine(states[name], acted[None, -frames:])
                whole, besides = their.now() - began, np.sum(once, axis=0)
                seconds[name].append(((whole - besides) * _PASSES / passes + besides) / frames)
        seconds = {name: values[warm_up:] for name, values in seconds.items()}
        result: dict[str, Any] = {"passes_timed": passes, "threads": torch.get_num_threads()}
        for place, clock in enumerate(("wall", "processor")):
            taken = {name: np.array(values)[:, place] for name, values in seconds.items()}
            result[clock] = {
                "frames_per_second": {name: float(1 / np.median(values)) for name, values in taken.items()},
                "ratios": {name: (taken["peer"] / taken[name]).tolist() for name in worlds},
            }
        return result


@contextlib.contextmanager
def _clock(world: Any, now: Callable[[], _Seconds]) -> Iterator[list[_Seconds]]:
    """Time what a frame costs once, however many passes it takes: remembering and decoding."""
    spent: list[_Seconds] = []

    def timed(plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*values: Any) -> Any:
            began = now()
            result = plain(*values)
            spent.append(now() - began)
            return result

        return call

    with (
        mock.patch.object(world.network, "remember", timed(world.network.remember)),
        mock.patch.object(world.codec, "decode", timed(world.codec.decode)),
    ):
        yield spent


def _row(what: str, size: _Size, parameters: int, ours: Tensor, theirs: Tensor) -> dict[str, Any]:
    difference = relative_difference(ours, theirs)
    return {"what": what, "size": size.name, "parameters": parameters, "relative_difference": difference}


def _count(module: nn.Module) -> int:
    return sum(one.numel() for name, one in module.named_parameters() if not name.endswith(".freqs"))


def _prompt(size: _Size, frames: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(256, (frames, 3, *size.frames), generator=generator, dtype=torch.uint8)


def _actions(steps: int) -> Tensor:
    """Random keys, and turns in the steps that there are: (steps, 25)."""
    generator = torch.Generator().manual_seed(4)
    actions = (torch.rand((steps, 25), generator=generator) < 0.2).float()
    actions[:, 15:17] = torch.randint(-40, 41, (steps, 2), generator=generator) / 40
    return actions


@contextlib.contextmanager
def _stand_ins() -> Iterator[None]:
    """Stand in for what the public code imports of torchvision and timm."""

    def module(name: str, **values: Any) -> types.ModuleType:
        made = types.ModuleType(name)
        made.__dict__.update(values)
        return made

    def unused(*_: Any, **__: Any) -> None:
        raise AssertionError("the benchmark hands pictures over itself")

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
