"""DIAMOND's worlds of Atari games (Alonso et al. 2024): one file per game, with denoiser, rewards and a policy."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium as gym
from torch import Tensor

from dreamenv.backbones.denoising import DenoiserTraining, DenoisingConfig
from dreamenv.denoisers.diamond import DiamondConfig
from dreamenv.diffusion.process import EDM
from dreamenv.diffusion.sampler import Euler
from dreamenv.diffusion.target import EDMPreconditioned
from dreamenv.errors import ConfigError, WeightsError
from dreamenv.heads.diamond_head import DiamondHeadConfig
from dreamenv.heads.no_reward import NoRewardHeadConfig
from dreamenv.importers.adapter import Adapter, Architecture, Options, shape_of, to_published
from dreamenv.importers.key_map import KeyMap, Rule
from dreamenv.world import World
from dreamenv.world_model import WorldModelSpec

__all__ = ["DENOISER_NAMES", "HEAD_NAMES", "DiamondAdapter"]

_SIZE = (64, 64)  # of published frames, in pixels
_STEPS = 3  # of the sampler per frame
_FRAME_RATE = 15.0  # hertz: an Atari game's 60, of which four are skipped at a time


def _blocks(theirs: str, ours: str) -> list[tuple[str, str]]:
    """The names of residual blocks."""
    pairs = [
        ("norm1.linear", "modulations.0"), ("norm2.linear", "modulations.1"), ("conv1", "convolutions.0"),
        ("conv2", "convolutions.1"), ("proj", "shortcut"), ("attn.norm.norm", "attention.norm"),
        ("attn.qkv_proj", "attention.qkv"), ("attn.out_proj", "attention.out_proj"),
    ]  # fmt: skip
    return _both([(f"{theirs}.resblocks.*.{a}", f"{ours}.blocks.*.{b}") for a, b in pairs])


def _both(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(f"{a}.{end}", f"{b}.{end}") for a, b in pairs for end in ("weight", "bias")]


def _transposed(tensor: Tensor) -> Tensor:
    """An embedding's rows are the columns of a product with one-hot vectors."""
    return tensor.mT


DENOISER_NAMES = KeyMap([
    Rule("inner_model.noise_emb.weight", "time.frequencies", lambda t: t[0], lambda t: t[None]),
    Rule("inner_model.act_emb.0.weight", "action.weight", _transposed, _transposed),
    *_both([
        ("inner_model.cond_proj.*", "mlp.*"), ("inner_model.conv_in", "conv_in"),
        ("inner_model.norm_out.norm", "norm"), ("inner_model.conv_out", "conv_out"),
        ("inner_model.unet.downsamples.*.conv", "unet.downsample.*"),
        ("inner_model.unet.upsamples.*.conv", "unet.upsample.*"),
    ]),
    *_blocks("inner_model.unet.d_blocks.*", "unet.downs.*"),
    *_blocks("inner_model.unet.u_blocks.*", "unet.ups.*"),
    *_blocks("inner_model.unet.mid_blocks", "unet.middle"),
])  # fmt: skip

HEAD_NAMES = KeyMap([
    Rule("act_emb.weight", "action.weight", _transposed, _transposed),
    *_both([
        ("encoder.conv_in", "conv_in"), ("encoder.downsamples.*.conv", "downsample.*"), ("head.*", "mlp.*"),
    ]),
    *_blocks("encoder.blocks.*", "stages.*"),
    *[(f"lstm.{part}_l0", f"lstm.{part}_l0") for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")],
])  # fmt: skip


class DiamondAdapter(Adapter):
    """Reads an agent's file: ``denoiser`` and, if it is there, ``rew_end_model``; ``actor_critic`` is left out."""

    name: ClassVar[str] = "diamond"
    title: ClassVar[str] = "DIAMOND"
    licence: ClassVar[str] = "MIT"
    options: ClassVar[tuple[str, ...]] = ("size", "sampling_steps")
    source: ClassVar[str] = "the Hugging Face repository eloialonso/diamond, atari_100k/models/<Game>.pt"

    def read(self, files: Sequence[Mapping[str, Tensor]], options: Options) -> Architecture:
        """See `Adapter.read`."""
        if len(files) != 1:
            raise WeightsError(f"DIAMOND's weights of a game are one file, not {len(files)}.")
        parts = {
            part: {name.removeprefix(f"{part}."): one for name, one in files[0].items() if name.startswith(f"{part}.")}
            for part in ("denoiser", "rew_end_model")
        }
        if not parts["denoiser"]:
            raise WeightsError(
                f"there is no denoiser in the file, whose tensors are {', '.join(list(files[0])[:3])}, ...: this is no "
                "agent of DIAMOND, which has the parts denoiser, rew_end_model and actor_critic."
            )
        denoiser, head = parts["denoiser"], parts["rew_end_model"]
        if any("upsampler" in name or "noise_cond_emb" in name for name in denoiser):
            raise WeightsError("this is DIAMOND's world of CS:GO, which has an upsampler; Atari's alone are imported.")
        actions = shape_of(denoiser, "inner_model.act_emb.0.weight", 2)[0]
        known = shape_of(head, "act_emb.weight", 2)[0] if head else actions
        if known != actions:
            raise WeightsError(
                f"rew_end_model knows {known} actions, the denoiser {actions}: they are not of the same game."
            )
        size = options.size or (_frame_size(head) if head else _SIZE)
        steps = _STEPS if options.sampling_steps is None else options.sampling_steps
        try:
            denoiser_config = _denoiser_config(denoiser)
            head_config = _head_config(head) if head else NoRewardHeadConfig()
            config = DenoisingConfig(
                denoiser=denoiser_config,
                process=EDM(sigma_min=0.002, sigma_max=5.0, p_mean=-0.4, p_std=1.2),
                target=EDMPreconditioned(sigma_data=0.5, offset_noise=0.3),
                sampler=Euler(steps=steps, init_noise_sigma=1.0, quantize_x0=True),
                head=head_config,
                training=DenoiserTraining(
                    sequence_length=max(8, denoiser_config.context), learning_rate=1e-4, bfloat16=False
                ),
            )
        except ConfigError as error:
            raise WeightsError(f"DIAMOND cannot be set up so: {error}") from error
        colours = shape_of(denoiser, "inner_model.conv_out.weight", 4)[0]
        spec = WorldModelSpec(
            frame_shape=(colours, *size), action_space=gym.spaces.Discrete(actions), frame_rate=_FRAME_RATE
        )
        said = "rewards are predicted by their sign, -1, 0 or 1, and given as their mean"
        if not head:
            said = "the file has no rew_end_model: rewards and terminations are not predicted"
            if options.size is None:
                said += f", and frames are taken to be {size[0]} x {size[1]}, the published size, which no tensor says"
        return Architecture(
            config=config,
            spec=spec,
            tensors={"denoiser": denoiser, **({"head": head} if head else {})},
            names={"denoiser": DENOISER_NAMES, "head": HEAD_NAMES},
            rewards=bool(head),
            notes=(said,),
        )

    def write(self, world: World) -> dict[str, dict[str, Tensor]]:
        """See `Adapter.write`."""
        model, config = world.model, world.config
        if (
            not isinstance(config, DenoisingConfig)
            or not isinstance(config.denoiser, DiamondConfig)
            or not isinstance(config.head, DiamondHeadConfig | NoRewardHeadConfig)
        ):
            raise WeightsError(
                "this world's denoiser and head are not DIAMOND's; only a world imported from it can be written as one."
            )
        parts = {"denoiser": ("denoiser", DENOISER_NAMES)}
        if isinstance(config.head, DiamondHeadConfig):
            parts["rew_end_model"] = ("head", HEAD_NAMES)
        return {
            "agent.pt": {
                f"{part}.{name}": tensor
                for part, (place, names) in parts.items()
                for name, tensor in to_published(model.get_submodule(place), names).items()
            }
        }


def _denoiser_config(tensors: Mapping[str, Tensor]) -> DiamondConfig:
    actions, wide = shape_of(tensors, "inner_model.act_emb.0.weight", 2)
    embed_dim = 2 * shape_of(tensors, "inner_model.noise_emb.weight", 2)[1]
    if embed_dim % wide:
        raise WeightsError(
            f"inner_model.act_emb.0.weight is {actions, wide}: {wide} does not divide the {embed_dim} that "
            "inner_model.noise_emb.weight shows."
        )
    context = embed_dim // wide
    colours = shape_of(tensors, "inner_model.conv_out.weight", 4)[0]
    entering = shape_of(tensors, "inner_model.conv_in.weight", 4)[1]
    if entering != (context + 1) * colours:
        raise WeightsError(
            f"inner_model.conv_in.weight takes {entering} channels; {context} frames of context and a noisy one of "
            f"{colours} channels are {(context + 1) * colours}."
        )
    return DiamondConfig(context=context, embed_dim=embed_dim, **_resolutions(tensors, "inner_model.unet.d_blocks"))


def _head_config(tensors: Mapping[str, Tensor]) -> DiamondHeadConfig:
    found = _resolutions(tensors, "encoder.blocks")
    return DiamondHeadConfig(
        hidden_size=shape_of(tensors, "lstm.weight_hh_l0", 2)[1],
        embed_dim=shape_of(tensors, "act_emb.weight", 2)[1],
        # The last stage is of the coarsest resolution once more.
        **{name: values[:-1] for name, values in found.items()},
    )


def _frame_size(tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    """Return height and width of the frames that the head sees, which are square."""
    channels = _resolutions(tensors, "encoder.blocks")["channels"][:-1]
    if not channels:
        raise WeightsError("encoder.blocks of rew_end_model has one stage; there should be two or more.")
    features = shape_of(tensors, "lstm.weight_ih_l0", 2)[1]
    side = math.isqrt(features // channels[-1])
    if side < 1 or side**2 * channels[-1] != features:
        raise WeightsError(
            f"lstm.weight_ih_l0 takes {features} features, which is no square of places with {channels[-1]} channels; "
            "name the size of frames."
        )
    return (side * 2 ** (len(channels) - 1),) * 2


def _resolutions(tensors: Mapping[str, Tensor], place: str) -> dict[str, Any]:
    """Return channels, blocks and attention of each resolution."""
    blocks: dict[int, set[int]] = {}
    attention: set[int] = set()
    for name in tensors:
        found = re.match(rf"{re.escape(place)}\.(\d+)\.resblocks\.(\d+)\.(\w+)", name)
        if found:
            blocks.setdefault(int(found[1]), set()).add(int(found[2]))
            attention |= {int(found[1])} if found[3] == "attn" else set()
    if sorted(blocks) != list(range(len(blocks))) or not blocks:
        raise WeightsError(f"the resolutions of {place} should be numbered from 0 on, not {sorted(blocks)}.")
    channels = [shape_of(tensors, f"{place}.{index}.resblocks.0.conv2.weight", 4)[0] for index in range(len(blocks))]
    return {
        "channels": tuple(channels),
        "blocks": tuple(len(blocks[index]) for index in range(len(blocks))),
        "attention": tuple(index in attention for index in range(len(blocks))),
    }
