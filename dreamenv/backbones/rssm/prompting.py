"""A slow prompt next to the fast action: what the prompt adds to the recurrence's step that the prior reads.

The memory ``h`` holds what happened and never the prompt, so a prompt may change at any step and nothing is computed
again. The prediction of a step reads ``f_t = GRU(z_{t-1} + a_t + (1 - m_t) g, h_{t-1})``: g is the prompt,
and the gate ``m_t = sigmoid(W [h_{t-1}, g, a_t])``, a number in [0, 1] for each entry of g, lets the action override
that part of the prompt which it contradicts, and no other. Without a prompt ``f_t = h_t``, bit for bit.

Both conditions are dropped in training, so each can be weighed (nested as in InstructPix2Pix, Brooks et al. 2023):
``l = l(0, 0) + w_g [l(g, 0) - l(0, 0)] + w_a [l(g, a) - l(g, 0)]``, of the prior's logits.

Letters: ``d`` width of h; ``e`` width of g; ``a`` width of an action's vector; ``w`` words of a prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dreamenv.backbones.rssm.dynamics import LatentDynamics
from dreamenv.checks import check_number
from dreamenv.errors import ConfigError
from dreamenv.nn.precision import Linear
from dreamenv.nn.text import BagOfWords
from dreamenv.parts import Part

__all__ = ["Conditions", "PromptConditioning", "PromptConfig"]

_MOST_SCALE = 100.0


@dataclass(frozen=True, kw_only=True)
class PromptConfig(Part, kind="rssm_prompt"):
    """How a prompt acts next to the action.

    Attributes:
        embed_dim: width of the prompt's vector.
        buckets: rows of each half of the words' table.
        prompt_dropout: share of the steps in training whose prompt alone is dropped.
        action_dropout: share of those whose action alone is.
        both_dropout: share of those without either.
        prompt_guidance_scale: weight of the prompt in dreams; 1 is no guidance, 0 ignores it.
        action_guidance_scale: weight of the action, given the prompt; likewise.

    Raises:
        ConfigError: a size, share or weight that cannot be.
    """

    embed_dim: int = 64
    buckets: int = 512
    prompt_dropout: float = 0.1
    action_dropout: float = 0.1
    both_dropout: float = 0.05
    prompt_guidance_scale: float = 1.0
    action_guidance_scale: float = 1.0

    def __post_init__(self) -> None:
        for name in ("embed_dim", "buckets"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
        shares = self.prompt_dropout, self.action_dropout, self.both_dropout
        if min(shares) < 0 or not sum(shares) < 1:
            raise ConfigError(
                "prompt_dropout, action_dropout and both_dropout must be shares that leave some steps as they are, "
                f"not {shares}."
            )
        for name in ("prompt_guidance_scale", "action_guidance_scale"):
            check_number(name, getattr(self, name), least=0, most=_MOST_SCALE)


class Conditions(NamedTuple):
    """What a step is predicted from, next to the memory and the latent.

    Attributes:
        prompt: (..., e), 0 where there is none.
        action: (..., a) its vector, 0 where it was dropped.
        dropped: (..., 1) float32, 1 where the action was dropped.
        projected: (..., 3 d), the action as the recurrence takes it.
    """

    prompt: Tensor
    action: Tensor
    dropped: Tensor
    projected: Tensor

    def hidden(self, null: Tensor, prompt: Tensor, action: Tensor) -> Conditions:
        """Return these without the prompts and the actions of masks (..., 1) bool; ``null`` stands for an action."""
        return Conditions(
            prompt=self.prompt * ~prompt,
            action=self.action * ~action,
            dropped=action.to(self.dropped.dtype),
            projected=torch.where(action, null.to(self.projected.dtype), self.projected),
        )


class PromptConditioning(nn.Module):
    """What the prompt adds.

    Args:
        config: its settings.
        action_size: a.
        deter: d.
    """

    def __init__(self, config: PromptConfig, action_size: int, deter: int) -> None:
        super().__init__()
        self.config = config
        self.encoder = BagOfWords(config.buckets, config.embed_dim)
        self.prompt_proj = Linear(config.embed_dim, 3 * deter, bias=False)
        self.gate = Linear(deter + config.embed_dim + action_size + 1, config.embed_dim)
        self.null_action = nn.Parameter(torch.zeros(3 * deter))  # what stands for an action that was dropped

    def conditions(self, hashes: Tensor, action: Tensor, projected: Tensor) -> Conditions:
        """Take prompts (..., w), the actions' vectors (..., a) and what the recurrence takes of them (..., 3 d)."""
        return Conditions(self.encoder(hashes), action, torch.zeros_like(action[..., :1]), projected)

    def inputs(self, deter: Tensor, given: Conditions) -> Tensor:
        """Return the recurrence's input (..., 3 d) besides the latent, given the memory (..., d)."""
        gate = self.gate(torch.cat((deter, given.prompt, given.action, given.dropped), dim=-1)).sigmoid()
        added: Tensor = self.prompt_proj((1 - gate) * given.prompt)
        return given.projected + added

    def drop(self, given: Conditions, generator: torch.Generator | None) -> Conditions:
        """Drop a random share of prompts and actions (b, t, ...), as the configuration says."""
        config = self.config
        chance = torch.rand(given.dropped.shape, generator=generator, device=given.dropped.device)
        both = chance < config.both_dropout
        prompt = chance < config.both_dropout + config.prompt_dropout
        action = both | (~prompt & (chance < config.both_dropout + config.prompt_dropout + config.action_dropout))
        return given.hidden(self.null_action, prompt, action)

    def predict(self, dynamics: LatentDynamics, deter: Tensor, latent: Tensor, given: Conditions) -> tuple[Tensor, ...]:
        """Return what the prior and the head read of a step (b, d), and the prior's guided logits (b, v k).

        Args:
            dynamics: the recurrence and the prior.
            deter: (b, d), the memory before the step.
            latent: (b, v) int64, class numbers.
            given: of the step, (b, ...).
        """
        config = self.config
        features = dynamics.step(deter, latent, self.inputs(deter, given))
        logits = dynamics.prior_logits(features).float()
        if config.prompt_guidance_scale == config.action_guidance_scale == 1:
            return features, logits
        every = torch.ones_like(given.dropped, dtype=torch.bool)
        null = self.null_action + dynamics.latent_proj.bias  # which `LatentDynamics.project` has added to actions
        neither, prompt = (
            dynamics.prior_logits(dynamics.step(deter, latent, self.inputs(deter, hidden))).float()
            for hidden in (given.hidden(null, every, every), given.hidden(null, ~every, every))
        )
        guided = neither + config.prompt_guidance_scale * (prompt - neither)
        return features, guided + config.action_guidance_scale * (logits - prompt)
