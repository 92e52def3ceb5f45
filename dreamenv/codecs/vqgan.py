"""Tokens whose pictures look real: VQGAN (Esser et al. 2021), a VQ-VAE that must also convince a critic.

Squared errors alone are smallest for pictures that blur what the tokens leave open. Here a critic learns to tell real
frames from decoded ones, and the decoder learns what convinces it. The perceptual term compares the critic's own
features of both (Larsen et al. 2016): no weights from elsewhere are needed. Letters as in `dreamenv.codecs.tokenizer`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dreamenv.codecs.critic import PatchCritic
from dreamenv.codecs.tokenizer import FrameContext, View
from dreamenv.codecs.vq import VQTokenizer, VQTokenizerConfig
from dreamenv.errors import ConfigError
from dreamenv.nn.precision import autocast
from dreamenv.world_model import Batch, Objective

__all__ = ["VQGANTokenizer", "VQGANTokenizerConfig"]

_MOST = 1e4  # of the adaptive weight
_SMALL = 1e-4  # added to the norm that it is divided by


@dataclass(frozen=True, kw_only=True)
class VQGANTokenizerConfig(VQTokenizerConfig, kind="vqgan_tokenizer"):
    """Settings.

    Attributes:
        adversarial_weight: of what convinces the critic, relative to the reconstruction: both gradients are brought to
            the same norm at the layer that makes pixels first (Esser et al. 2021, equation 7).
        perceptual_weight: of the mean absolute differences between the critic's features, times the values of a frame.
        critic_channels: of the critic's layers.
        critic_start: steps after which the decoder listens to the critic; the critic learns from the start.

    Raises:
        ConfigError: a number that cannot be, or both weights 0, so that nothing listens to the critic.
    """

    adversarial_weight: float = 0.1
    perceptual_weight: float = 0.01
    critic_channels: tuple[int, ...] = (32, 64, 128)
    critic_start: int = 2000

    def __post_init__(self) -> None:
        for name in ("adversarial_weight", "perceptual_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be at least 0, not {getattr(self, name)}.")
        if not self.adversarial_weight and not self.perceptual_weight:
            raise ConfigError(
                "with adversarial_weight=0 and perceptual_weight=0 the critic's settings have no effect; take a "
                "vq_tokenizer, or weigh one of them."
            )
        if not self.critic_channels or min(self.critic_channels) < 1:
            raise ConfigError(f"critic_channels must be positive, at least one, not {self.critic_channels}.")
        if self.critic_start < 0:
            raise ConfigError(f"critic_start must be at least 0, not {self.critic_start}.")

    def build(self, frame_shape: tuple[int, int, int], action_size: int = 0) -> VQGANTokenizer:
        """See `TokenizerConfig`."""
        return VQGANTokenizer(self, frame_shape)


class VQGANTokenizer(VQTokenizer):
    """The tokenizer, and its critic.

    Args:
        config: its settings.
        frame_shape: (c, h, w).

    Raises:
        ConfigError: frames that the networks or the critic cannot take.
    """

    steps_done: Tensor

    config: VQGANTokenizerConfig

    def __init__(self, config: VQGANTokenizerConfig, frame_shape: tuple[int, int, int]) -> None:
        super().__init__(config, frame_shape)
        least = 2 ** len(config.critic_channels)
        if min(frame_shape[1:]) < least:
            raise ConfigError(
                f"a critic of {len(config.critic_channels)} layers needs frames of at least {least} pixels, not "
                f"{frame_shape[1]}x{frame_shape[2]}; give critic_channels fewer layers."
            )
        self.critic = PatchCritic(frame_shape[0], config.critic_channels)
        self.register_buffer("steps_done", torch.zeros((), dtype=torch.int64))

    def objectives(self, view: View) -> Sequence[Objective]:
        """See `Tokenizer`: first the tokenizer, then its critic."""
        critic = list(self.critic.parameters())
        own = {id(parameter) for parameter in critic}

        def judge(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
            return self.critic_loss(view(batch)[0])

        return (
            Objective(
                "tokenizer",
                [parameter for parameter in self.parameters() if id(parameter) not in own],
                lambda batch: self.loss(*view(batch), batch.generator),
            ),
            Objective("critic", critic, judge),
        )

    def loss(
        self, frames: Tensor, context: FrameContext | None, generator: torch.Generator | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `VQTokenizer`. Also logs ``adversarial``, how far from convinced the critic is, and ``perceptual``."""
        decoded, loss, terms = self.reconstruction_loss(frames, generator)
        listens = (self.steps_done >= self.config.critic_start).float()  # stays on the device
        if self.training:
            self.steps_done += 1
        with autocast(frames.device, self.config.training.bfloat16 and self.training):
            scores, shown = self.critic(decoded)
            with torch.no_grad():
                _, real = self.critic(frames)
        values = frames[0].numel()
        adversarial = -scores.mean()
        differences = [(one.float() - other.float()).abs().mean() for one, other in zip(shown, real, strict=True)]
        perceptual = torch.stack(differences).mean() * values
        terms |= {"adversarial": adversarial.detach(), "perceptual": perceptual.detach()}
        weight = self.config.adversarial_weight * self._balance(loss, adversarial, values)
        return loss + listens * (weight * adversarial + self.config.perceptual_weight * perceptual), terms

    def critic_loss(self, frames: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the critic's hinge loss of frames (n, c, h, w) and what they are decoded to (Lim and Ye 2017)."""
        with torch.no_grad():
            decoded = self.reconstruct(frames)
        with autocast(frames.device, self.config.training.bfloat16 and self.training):
            real, _ = self.critic(frames)
            fake, _ = self.critic(decoded)
        loss = (functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()) / 2
        return loss, {"real": real.detach().mean(), "fake": fake.detach().mean()}

    def _balance(self, loss: Tensor, adversarial: Tensor, values: int) -> Tensor | float:
        """Return the ratio of both gradients' norms at the layer that makes pixels; the values of a frame without."""
        last = self.grid.last_weight
        if not (torch.is_grad_enabled() and last.requires_grad):
            return float(values)
        ours, theirs = (torch.autograd.grad(one, last, retain_graph=True)[0].norm() for one in (loss, adversarial))
        ratio: Tensor = ours / (theirs + _SMALL)
        return ratio.clamp(0, _MOST).detach()
