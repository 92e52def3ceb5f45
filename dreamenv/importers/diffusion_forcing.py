"""Diffusion Forcing: the checkpoints of its video models, which Lightning wrote.

Frames' size and the window's length are in no tensor. They are taken to be those of the published model with the same
noise schedule: Minecraft has the sigmoid one, DMLab (of which the public settings are known) the cosine one.

A checkpoint also holds tables that follow from its noise schedule, and one table of rotary speeds under many names.
They are checked when it is read, kept once or not at all, and written again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import gymnasium as gym
import torch
from torch import Tensor, nn

from dreamenv.backbones.denoising import DenoiserTraining, DenoisingConfig
from dreamenv.denoisers.diffusion_forcing import DiffusionForcingConfig
from dreamenv.diffusion.context_noise import Stabilization
from dreamenv.diffusion.process import VariancePreserving
from dreamenv.diffusion.sampler import DDIM
from dreamenv.diffusion.target import Velocity
from dreamenv.errors import ConfigError, WeightsError
from dreamenv.heads.no_reward import NoRewardHeadConfig
from dreamenv.importers.adapter import Adapter, Architecture, Options, to_published
from dreamenv.importers.key_map import KeyMap, Rule
from dreamenv.importers.noise_tables import noise_tables
from dreamenv.world import World
from dreamenv.world_model import WorldModelSpec

__all__ = ["NAMES", "DiffusionForcingAdapter", "checkpoint_tensors"]

Schedule = Literal["sigmoid", "cosine", "linear"]

_PREFIX = "diffusion_model."
_NET = _PREFIX + "model.module."
_STEPS = 1000
_STABILIZATION = 14.0  # the public stabilization_level 15, counted from 0
_SAME = 1e-5  # the published sigmoid schedule is computed in part in float32
_ALIKE = 0.01  # so what follows from it differs more where it is large or small
_SPEEDS = f"{_NET}rotary_time_pos_embedding.freqs"
_QKV = ".attn_block.attn.to_qkv.weight"  # of attention along time, which has the speeds too
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
        *_both(f"{theirs}.in_layers.0", f"{ours}.norm1"),
        *_both(f"{theirs}.in_layers.2", f"{ours}.conv1", convolution=True),
        *_both(f"{theirs}.out_layers.0", f"{ours}.norm2"),
        *_both(f"{theirs}.out_layers.2", f"{ours}.conv2", convolution=True),
        *_both(f"{theirs}.emb_layers.1", f"{ours}.modulation"),
        *_both(f"{theirs}.skip_conv", f"{ours}.shortcut", convolution=True),
    ]


def _attention(theirs: str, ours: str) -> list[Rule | tuple[str, str]]:
    return [
        *_both(f"{theirs}.norm", f"{ours}.norm"),
        (f"{theirs}.attn.to_qkv.weight", f"{ours}.qkv.weight"),
        *_both(f"{theirs}.attn.to_out", f"{ours}.out_proj"),
    ]


def _temporal(theirs: str, ours: str) -> list[Rule | tuple[str, str]]:
    return _attention(f"{theirs}.wrapper.module.attn_block", ours)


def _resolution(theirs: str, ours: str) -> list[Rule | tuple[str, str]]:
    return [
        *_block(f"{theirs}.0", f"{ours}.block1"),
        *_block(f"{theirs}.1", f"{ours}.block2"),
        *_attention(f"{theirs}.2.wrapper.module", f"{ours}.spatial"),
        *_temporal(f"{theirs}.3", f"{ours}.temporal"),
    ]


NAMES = KeyMap([
    *_both(f"{_NET}noise_level_pos_embedding.1.linear_1", "unet.time_embed.0"),
    *_both(f"{_NET}noise_level_pos_embedding.1.linear_2", "unet.time_embed.2"),
    (_SPEEDS, "unet.rotary_speeds"),
    *_both(f"{_NET}init_conv", "unet.conv_in", convolution=True),
    *_temporal(f"{_NET}init_temporal_attn", "unet.temporal_in"),
    *_resolution(f"{_NET}down_blocks.*.0", "unet.downs.*"),
    *_both(f"{_NET}down_blocks.*.1.conv", "unet.downs.*.resize", convolution=True),
    *_block(f"{_NET}mid_block.0", "unet.middle_block1"),
    *_attention(f"{_NET}mid_block.1.wrapper.module", "unet.middle_spatial"),
    *_temporal(f"{_NET}mid_block.2", "unet.middle_temporal"),
    *_block(f"{_NET}mid_block.3", "unet.middle_block2"),
    *_resolution(f"{_NET}up_blocks.*", "unet.ups.*"),
    *_both(f"{_NET}up_blocks.*.4.conv", "unet.ups.*.resize", convolution=True),
    *_block(f"{_NET}out.0", "unet.out_block"),
    *_both(f"{_NET}out.1", "unet.conv_out", convolution=True),
])  # fmt: skip
"""Of all tensors that the network has."""


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
        schedule = _schedule(tensors)
        denoiser = _config(tensors, options, schedule)
        _, side, frames = _published(schedule)
        height, width = options.size or (side, side)
        coarsest = 2 ** (len(denoiser.channels) - 1)
        if height < 1 or width < 1 or height % coarsest or width % coarsest:
            raise WeightsError(
                f"frames of {height} x {width} cannot be: {len(denoiser.channels)} resolutions need multiples of "
                f"{coarsest}. The published size is {side} x {side}."
            )
        if options.actions not in (None, "nothing"):
            raise WeightsError(
                f"there are no actions {options.actions!r}: these models were trained without any, and the only choice "
                "is 'nothing'."
            )
        steps = options.sampling_steps
        if steps is not None and not 1 <= steps <= _STEPS:
            raise WeightsError(f"sampling_steps must be from 1 to {_STEPS}, the steps of the chain, not {steps}.")
        process = VariancePreserving(schedule=schedule, steps=_STEPS, time_scale=float(_STEPS))
        config = DenoisingConfig(
            denoiser=denoiser,
            process=process,
            target=Velocity(),
            sampler=DDIM(steps=steps or 100, init_noise_sigma=1.0),
            context_noise=Stabilization(stabilization_level=_STABILIZATION),
            head=NoRewardHeadConfig(),
            quantize_frames=False,
            training=DenoiserTraining(batch_size=8, sequence_length=denoiser.context, learning_rate=8e-5),
        )
        return Architecture(
            config=config,
            spec=WorldModelSpec(frame_shape=(3, height, width), action_space=gym.spaces.Discrete(1), frame_rate=10.0),
            tensors={"denoiser": _without_tables(tensors, process)},
            names={"denoiser": NAMES},
            notes=(
                "The weights know of no actions: the only action is 0, nothing, and what happens next is sampled at "
                "random.",
                f"The size of frames, {height} x {width}, and the window of {frames} frames are in no tensor"
                f"{'' if options.size else '; they are those published with this noise schedule'}.",
            ),
        )

    def write(self, world: World) -> dict[str, dict[str, Tensor]]:
        """See `Adapter.write`."""
        config, process = world.config, getattr(world.config, "process", None)
        of_ours = isinstance(config, DenoisingConfig) and isinstance(config.denoiser, DiffusionForcingConfig)
        if not of_ours or not isinstance(process, VariancePreserving):
            raise WeightsError(
                "this world has no denoiser of Diffusion Forcing; write it as what it was imported from."
            )
        file, _, _ = _PUBLISHED.get(process.schedule, ("diffusion_forcing.ckpt", 0, 0))
        return {file: checkpoint_tensors(world.model.get_submodule("denoiser"), process)}


def checkpoint_tensors(network: nn.Module, process: VariancePreserving) -> dict[str, Tensor]:
    """Return all tensors of a checkpoint: the network's, and the tables that go with it."""
    tensors = to_published(network, NAMES)
    speeds = {name.replace("to_qkv.weight", "rotary_emb.freqs"): tensors[_SPEEDS] for name in tensors if _QKV in name}
    tables = {_PREFIX + name: table for name, table in noise_tables(process).items()}
    normalisation = {name: torch.tensor(0.5) for name in ("data_mean", "data_std")}
    return {**tables, **normalisation, **tensors, **speeds}


def _without_tables(tensors: Mapping[str, Tensor], process: VariancePreserving) -> dict[str, Tensor]:
    """Return the network's own tensors, with the rotary speeds once.

    Raises:
        WeightsError: a table is missing, or is not what the noise schedule says or the other layers have.
    """
    expected = {_PREFIX + name: table for name, table in noise_tables(process).items()}
    for name, table in expected.items():
        if name not in tensors:
            raise WeightsError(f"{name} is missing. Is the file whole?")
        found = tensors[name]
        if found.shape != table.shape or not torch.allclose(found.float(), table, rtol=_ALIKE, atol=_SAME):
            raise WeightsError(
                f"{name} is not what follows from the noise schedule {process.schedule!r} that alphas_cumprod has. Is "
                "the file damaged?"
            )
    speeds = [name for name in tensors if name.endswith(".rotary_emb.freqs")]
    for name in speeds:
        if not torch.equal(tensors[name], tensors[_SPEEDS]):
            raise WeightsError(
                f"{name} is not the table of rotary speeds that {_SPEEDS} is: all layers share one. Is the file of a "
                "variant?"
            )
    left_out = {*expected, *speeds, "data_mean", "data_std"}
    return {name: tensor for name, tensor in tensors.items() if name not in left_out}


def _published(schedule: Schedule) -> tuple[str, int, int]:
    """Return file, pixels per side and frames in a window of the published model with a schedule, or DMLab's."""
    return _PUBLISHED.get(schedule, _PUBLISHED["cosine"])


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
                "this is Diffusion Forcing's planner, a transformer over states; only its video models make frames: "
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


def _config(tensors: Mapping[str, Tensor], options: Options, schedule: Schedule) -> DiffusionForcingConfig:
    """Read sizes from shapes, and the window's length from the schedule.

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
        raise WeightsError(f"the shapes are of {heads} heads, not {options.heads}; leave the number of heads out.")
    try:
        _, _, frames = _published(schedule)
        return DiffusionForcingConfig(
            context=frames - 1, width=width, channels=channels, heads=heads, head_size=head_size
        )
    except ConfigError as error:
        raise WeightsError(f"the shapes are of sizes that cannot be: {error}") from error
