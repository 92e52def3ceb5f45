"""What a published architecture offers to become part of a denoising world, and where each part is.

A part is a frozen dataclass of JSON values: the sizes of a published network, codec, or network of rewards. Its field
``kind`` names it in a world's description.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import gymnasium as gym

from dreamenv.errors import ConfigError, UnknownNameError

if TYPE_CHECKING:
    from torch import nn

    from dreamenv.backbones.denoising.config import DenoisingConfig
    from dreamenv.backbones.denoising.networks import FrameNetwork
    from dreamenv.nn.autoencoders import PictureVAE

__all__ = ["CodecPart", "EventsPart", "NetworkPart", "is_part", "read_part"]

_PARTS = {
    "diamond": "dreamenv.public.diamond:DiamondSizes",
    "diamond events": "dreamenv.public.diamond_events:DiamondEventsSizes",
    "diffusion forcing": "dreamenv.public.diffusion_forcing:DiffusionForcingSizes",
    "nwm": "dreamenv.public.nwm:NWMSizes",
    "oasis": "dreamenv.public.oasis:OasisSizes",
    "oasis codec": "dreamenv.public.oasis_codec:OasisCodecSizes",
    "sd codec": "dreamenv.public.sd_codec:SDCodecSizes",
    "silent": "dreamenv.public.silent:SilentSizes",
}


@runtime_checkable
class NetworkPart(Protocol):
    """Sizes of a network that draws frames."""

    @property
    def kind(self) -> str:
        """Its name."""
        ...

    def vectors(self, space: gym.Space[Any]) -> nn.Module:
        """Return what turns actions (..., *a) of a space into vectors (..., size), like `dreamenv.nn.ActionVector`.

        It has ``size``, and ``chosen``, for each entry whether it is a choice or a quantity.

        Raises:
            ConfigError: a space that the network cannot be told of.
        """
        ...

    def network(self, config: DenoisingConfig, frame_shape: tuple[int, int, int], action_size: int) -> FrameNetwork:
        """Make the untrained network, of frames or latents (c, h, w) and of action vectors of a size."""
        ...


@runtime_checkable
class CodecPart(Protocol):
    """Sizes and training of an autoencoder, with the settings of `CodecConfig` that training it needs."""

    @property
    def kind(self) -> str:
        """Its name."""
        ...

    @property
    def stride(self) -> int:
        """Frames per latent."""
        ...

    @property
    def steps(self) -> int:
        """Optimiser steps of the stage that learns it."""
        ...

    @property
    def batch(self) -> int:
        """Pictures per step."""
        ...

    @property
    def rate(self) -> float:
        """Peak learning rate."""
        ...

    @property
    def kl_weight(self) -> float:
        """Of the divergence beside the squared error."""
        ...

    @property
    def sampled(self) -> bool:
        """Whether a latent is drawn from its distribution, rather than taken to be its mean."""
        ...

    @property
    def scale(self) -> float:
        """What latents are multiplied by before they are drawn."""
        ...

    def autoencoder(self, frame_shape: tuple[int, int, int]) -> PictureVAE:
        """Make the untrained autoencoder of frames (c, h, w)."""
        ...


@runtime_checkable
class EventsPart(Protocol):
    """Sizes of a network that tells rewards and endings."""

    @property
    def kind(self) -> str:
        """Its name."""
        ...

    def events(self, config: DenoisingConfig, frame_shape: tuple[int, int, int], action_size: int) -> nn.Module:
        """Make the untrained network, which has what `dreamenv.backbones.denoising.events.Events` has."""
        ...


def is_part(values: Mapping[str, Any]) -> bool:
    """Say whether these are the values of a published part, or at least name one."""
    return values.get("kind") in _PARTS


def read_part(values: Mapping[str, Any]) -> Any:
    """Read a part back from what ``dataclasses.asdict`` gave, with lists for tuples.

    Raises:
        UnknownNameError: no such part, or a setting that it does not have.
        ConfigError: values that name no kind.
    """
    settings: dict[str, Any] = {key: _tuples(one) for key, one in values.items()}
    kind = settings.get("kind")
    if not isinstance(kind, str):
        raise ConfigError(f"a part needs its 'kind'; found the settings {sorted(values)}.")
    if kind not in _PARTS:
        raise UnknownNameError("part of a public world", kind, _PARTS)
    module, name = _PARTS[kind].split(":")
    made_by = getattr(importlib.import_module(module), name)
    known = [entry.name for entry in fields(made_by)]
    for name in settings:
        if name not in known:
            raise UnknownNameError(f"setting of {kind!r}", name, known)
    return made_by(**settings)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(one) for one in value) if isinstance(value, list | tuple) else value
