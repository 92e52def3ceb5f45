"""Diffusion Forcing: the checkpoints of its video models, which Lightning wrote.

Frames' size and the window's length are in no tensor. They are taken to be those of the published model with the same
noise schedule: Minecraft has the sigmoid one, DMLab (of which the public settings are known) the cosine one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import gymnasium as gym
import torch
from torch import Tensor

from dreamenv.backbones.denoising.config import DenoisingConfig
from dreamenv.diffusion.processes import VariancePreserving
from dreamenv.errors import ConfigError, WeightsError
from dreamenv.importers.adapter import Adapter, Architecture, Options, published
from dreamenv.importers.names import Names, Rule
from dreamenv.public.diffusion_forcing import SCHEDULE, DiffusionForcingSizes
from dreamenv.public.silent import SilentSizes
from dreamenv.world import World
from dreamenv.world_model import WorldModelSpec

__all__ = ["NAMES", "DiffusionForcingAdapter"]

Schedule = Literal["sigmoid", "cosine", "linear"]

_PREFIX = "diffusion_model."
_NET = _PREFIX + "model.module."
_STEPS = 1000
_STABILISATION = 14.0  # the public stabilization_level 15, counted from 0
_SAME = 1e-5  # the published sigmoid schedule is computed in part in float32
_PUBLISHED = {"sigmoid": ("minecraft.ckpt", 128, 10), "cosine": ("dmlab.ckpt", 64, 16)}
"""Schedule -> file, pixels per side, frames in a window."""


def _convolution(theirs: str, ours: str) -> Rule:
    """Of one frame: theirs has an axis of length 1 for time."""
    return Rule(theirs, ours, lambda weight: weight.squeeze(2), lambda weight: weight.unsqueeze(2).contiguous())


def _both(theirs: str, ours: str, *, convolution: bool = False) -> list[Rule | tuple[str, str]]:
    weight = (f"{theirs}.weight", f"{ours}.weight")
    return [_convolution(*weight) if convolution else weight, (f"{theirs}.bias", f"{ours}.bias")]


def _block(theirs: str, ours: str) -> list[Rule | tuple[str, str]]:
    return [
        *_both(f"{theirs}.in_layers.0", f"{ours}.first_normal"),
        *_both(f"{theirs}.in_layers.2", f"{ours}.first", convolution=True),
        *_both(f"{theirs}.out_layers.0", f"{ours}.second_normal"),
        *_both(f"{theirs}.out_layers.2", f"{ours}.second", convolution=True),
        *_both(f"{theirs}.emb_layers.1", f"{ours}.modulation"),
        *_both(f"{theirs}.skip_conv", f"{ours}.shortcut", convolution=True),
    ]


def _space(theirs: str, ours: str) -> list[Rule | tuple[str, str]]:
    return [
        *_both(f"{theirs}.norm", f"{ours}.normal"),
        (f"{theirs}.attn.to_qkv.weight", f"{ours}.enter.weight"),
        *_both(f"{theirs}.attn.to_out", f"{ours}.leave"),
    ]


def _time(theirs: str, ours: str) -> list[Rule | tuple[str, str]]:
    inside = f"{theirs}.wrapper.module.attn_block"
    return [*_space(inside, ours), (f"{inside}.attn.rotary_emb.freqs", f"{ours}.frequencies")]


def _level(theirs: str, ours: str) -> list[Rule | tuple[str, str]]:
    return [
        *_block(f"{theirs}.0", f"{ours}.first"),
        *_block(f"{theirs}.1", f"{ours}.second"),
        *_space(f"{theirs}.2.wrapper.module", f"{ours}.space"),
        *_time(f"{theirs}.3", f"{ours}.time"),
    ]


NAMES = Names([
    *((_PREFIX + name, f"schedule.{name}") for name in SCHEDULE),
    ("data_mean", "data_mean"),
    ("data_std", "data_std"),
    *_both(f"{_NET}noise_level_pos_embedding.1.linear_1", "unet.level.0"),
    *_both(f"{_NET}noise_level_pos_embedding.1.linear_2", "unet.level.2"),
    (f"{_NET}rotary_time_pos_embedding.freqs", "unet.frequencies"),
    *_both(f"{_NET}init_conv", "unet.enter", convolution=True),
    *_time(f"{_NET}init_temporal_attn", "unet.enter_time"),
    *_level(f"{_NET}down_blocks.*.0", "unet.downs.*"),
    *_both(f"{_NET}down_blocks.*.1.conv", "unet.downs.*.resize", convolution=True),
    *_block(f"{_NET}mid_block.0", "unet.middle_first"),
    *_space(f"{_NET}mid_block.1.wrapper.module", "unet.middle_space"),
    *_time(f"{_NET}mid_block.2", "unet.middle_time"),
    *_block(f"{_NET}mid_block.3", "unet.middle_second"),
    *_level(f"{_NET}up_blocks.*", "unet.ups.*"),
    *_both(f"{_NET}up_blocks.*.4.conv", "unet.ups.*.resize", convolution=True),
    *_block(f"{_NET}out.0", "unet.leave_block"),
    *_both(f"{_NET}out.1", "unet.leave", convolution=True),
])  # fmt: skip
"""Of all tensors of a checkpoint."""


class DiffusionForcingAdapter(Adapter):
    """The video models with attention along time, not the recurrent ones of the paper."""

    name = "diffusion-forcing"
    title = "Diffusion Forcing"
    licence = "MIT"
    source = (
        "the archive quickstart_atten.tar.gz that the README of github.com/buoyancy99/diffusion-forcing links to, as "
        "outputs/minecraft.ckpt"
    )

    def read(self, files: Sequence[Mapping[str, Tensor]], options: Options) -> Architecture:
        """See `Adapter.read`."""
        if len(files) != 1:
            raise WeightsError(f"a Diffusion Forcing world is one checkpoint, not {len(files)} files; import one.")
        tensors = _named(files[0])
        schedule, sizes = _schedule(tensors), _sizes(tensors, options)
        _, side, frames = _PUBLISHED.get(schedule, _PUBLISHED["cosine"])
        height, width = options.size or (side, side)
        coarsest = 2 ** (len(sizes.channels) - 1)
        if height < 1 or width < 1 or height % coarsest or width % coarsest:
            raise WeightsError(
                f"frames of {height} x {width} cannot be drawn: {len(sizes.channels)} resolutions need multiples of "
                f"{coarsest}. The published size is {side} x {side}."
            )
        if options.actions not in (None, "nothing"):
            raise WeightsError(
                f"there are no actions {options.actions!r}: these models were trained without any, and the only choice "
                "is 'nothing'."
            )
        if options.passes is not None and not 1 <= options.passes <= _STEPS:
            raise WeightsError(f"passes must be from 1 to {_STEPS}, the steps of the chain, not {options.passes}.")
        config = DenoisingConfig(
            network="public",
            public=sizes,
            events=SilentSizes(),
            context=frames - 1,
            noise="chain",
            schedule=schedule,
            target="velocity",
            sampler="ddim",
            passes=options.passes or 100,
            spread=1.0,
            stabilisation=_STABILISATION,
            manner="scaled",
            data_std=1.0,
            quantise=False,
            as_drawn=True,
            denoiser_length=frames - 1,
            denoiser_batch=8,
            denoiser_rate=8e-5,
        )
        return Architecture(
            config=config,
            spec=WorldModelSpec(frame_shape=(3, height, width), action_space=gym.spaces.Discrete(1), frame_rate=10.0),
            tensors={"network": tensors},
            names={"network": NAMES},
            notes=(
                "The weights know of no actions: the only action is 0, nothing, and what happens next is drawn at "
                "random.",
                f"The size of frames, {height} x {width}, and the window of {frames} frames are in no tensor"
                f"{'' if options.size else '; they are those published with this noise schedule'}.",
            ),
        )

    def write(self, world: World) -> dict[str, dict[str, Tensor]]:
        """See `Adapter.write`."""
        config, model = world.config, world.model
        if not isinstance(config, DenoisingConfig) or not isinstance(config.public, DiffusionForcingSizes):
            raise WeightsError("this world has no network of Diffusion Forcing: write it as what it was imported from.")
        assert isinstance(model, torch.nn.Module)
        file, _, _ = _PUBLISHED.get(config.schedule, ("diffusion_forcing.ckpt", 0, 0))
        return {file: published(model.get_submodule("network"), NAMES)}


def _named(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under the names of a whole checkpoint, without the metrics' own networks.

    Raises:
        WeightsError: of another system, or of frames that are normalised otherwise.
    """
    if not any(name.startswith(_PREFIX) for name in tensors):  # the tensors of the diffusion alone
        tensors = {name if name.startswith("data_") else _PREFIX + name: value for name, value in tensors.items()}
    if f"{_PREFIX}alphas_cumprod" not in tensors or f"{_NET}init_conv.weight" not in tensors:
        if any(name.startswith(f"{_PREFIX}model.transformer.") for name in tensors):
            raise WeightsError(
                "this is Diffusion Forcing's planner, a transformer over states; only its video models draw frames: "
                "import one of those, such as minecraft.ckpt."
            )
        raise WeightsError(
            "this is no video model of Diffusion Forcing: it has no alphas_cumprod and model.module.init_conv.weight, "
            f"but begins with {', '.join(sorted(tensors)[:3]) or 'nothing'}. Import a checkpoint of the main branch "
            "(not of the branch 'paper', whose models are recurrent), or name the system that the file is of."
        )
    named = {name: value for name, value in tensors.items() if not name.startswith("validation_")}
    for name in ("data_mean", "data_std"):
        value = named.setdefault(name, torch.tensor(0.5))
        if value.numel() != 1 or float(value) != 0.5:
            raise WeightsError(
                f"{name} is {value.tolist()}; only models of frames in [-1, 1] can be imported, whose mean and "
                "standard deviation are given as 0.5. For others noise would have another size."
            )
    return named


def _schedule(tensors: Mapping[str, Tensor]) -> Schedule:
    """Recognise the noise schedule by its values.

    Raises:
        WeightsError: of another number of steps, or none that is known.
    """
    found = tensors[f"{_PREFIX}alphas_cumprod"]
    if found.shape != (_STEPS,):
        raise WeightsError(f"alphas_cumprod is {tuple(found.shape)}; only chains of {_STEPS} steps can be imported.")
    known: tuple[Schedule, ...] = get_args(Schedule)
    for schedule in known:
        expected = VariancePreserving(schedule=schedule, steps=_STEPS).signal[1:]
        if torch.allclose(found.double(), expected, rtol=0, atol=_SAME):
            return schedule
    raise WeightsError(
        f"alphas_cumprod, from {float(found[0]):.4g} to {float(found[-1]):.4g}, is none of the noise schedules "
        f"{', '.join(known)} with their published settings; others cannot be imported."
    )


def _sizes(tensors: Mapping[str, Tensor], options: Options) -> DiffusionForcingSizes:
    """Read sizes from shapes.

    Raises:
        WeightsError: a tensor that is needed for it is missing, or shapes that cannot be.
    """

    def shape(name: str, axes: int) -> tuple[int, ...]:
        full = _NET + name
        if full not in tensors:
            raise WeightsError(f"{full} is missing, from which sizes are read. Is the file whole?")
        if tensors[full].ndim != axes:
            raise WeightsError(f"{full} is {tuple(tensors[full].shape)}; it would have to have {axes} axes.")
        return tuple(tensors[full].shape)

    width, pictures = shape("init_conv.weight", 5)[:2]
    if pictures != 3:
        raise WeightsError(
            f"{_NET}init_conv.weight takes {pictures} channels; only models of single frames of 3 can be imported."
        )
    found = (re.match(re.escape(_NET) + r"down_blocks\.(\d+)\.", name) for name in tensors)
    levels = 1 + max((int(match.group(1)) for match in found if match), default=-1)
    channels = tuple(shape(f"down_blocks.{i}.0.0.in_layers.2.weight", 5)[0] for i in range(levels))
    head_size = 2 * shape("rotary_time_pos_embedding.freqs", 1)[0]
    inner = shape("init_temporal_attn.wrapper.module.attn_block.attn.to_qkv.weight", 2)[0]
    heads, rest = divmod(inner, 3 * head_size)
    if rest or not heads:
        raise WeightsError(
            f"attention of {inner} rows for queries, keys and values cannot be of heads of {head_size}, as "
            f"{head_size // 2} frequencies say."
        )
    if options.heads not in (None, heads):
        raise WeightsError(f"the shapes tell of {heads} heads, not {options.heads}; leave the number of heads out.")
    try:
        return DiffusionForcingSizes(width=width, channels=channels, heads=heads, head_size=head_size)
    except ConfigError as error:
        raise WeightsError(f"the shapes tell of sizes that cannot be: {error}") from error
