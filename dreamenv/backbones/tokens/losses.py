"""What a token world's second stage learns from: the likelihood of tokens, reward and termination."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dreamenv.backbones.tokens.dynamics import TokenDynamics
from dreamenv.backbones.tokens.frames import FrameTokens
from dreamenv.backbones.tokens.training import TokenWorldTraining
from dreamenv.heads.reward_termination import RewardTerminationHead
from dreamenv.nn.dropout import dropout
from dreamenv.nn.precision import autocast
from dreamenv.world_model import Batch

__all__ = ["TokenWorldLoss"]


@dataclass(frozen=True)
class TokenWorldLoss:
    """The loss, of the networks that it trains."""

    config: TokenWorldTraining
    frames: FrameTokens
    dynamics: TokenDynamics
    head: RewardTerminationHead | None

    def dynamics_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return nats per token, and the head's loss. ``tokens`` is logged in nats per frame."""
        config, training = self.config, self.dynamics.training
        before = None
        if batch.features is not None:
            tokens = batch.features.long()  # b t+1 l
        else:
            before = torch.cat((batch.first_frame[:, None], batch.frames[:, :-1]), dim=1)
            with torch.no_grad():
                first = self.frames.encode_first(batch.first_frame)
                tokens = torch.cat((first[:, None], self.frames.encode(batch.frames, batch.actions, before)), dim=1)
        shown = self._disturbed(tokens, batch.generator) if training else tokens
        with autocast(tokens.device, config.bfloat16 and training):
            acted = self.frames.acted(batch.actions, before)
            nats, passed = self.dynamics.learned_nats(acted, tokens, shown, batch.generator)
            weight = batch.weight * ~batch.terminated
            terms = {"tokens": (nats.sum(dim=-1) * weight).sum() / weight.sum().clamp_min(1e-8)}
            loss = terms["tokens"] / tokens.shape[-1]
            if self.head is not None:
                passed = dropout(passed, config.dropout if training else 0.0, batch.generator)
                predicted, of_head = self.head.loss(passed, batch)
                loss, terms = loss + predicted, {**of_head, **terms}
        return loss, terms

    def _disturbed(self, tokens: Tensor, generator: torch.Generator | None) -> Tensor:
        """Replace up to a share of the tokens (b, t, l) by any others; how many is drawn per window."""
        if self.config.token_noise == 0:
            return tokens
        device, vocabulary = tokens.device, self.frames.tokenizer.vocabulary
        share = self.config.token_noise * torch.rand((len(tokens), 1, 1), generator=generator, device=device)
        replaced = torch.rand(tokens.shape, generator=generator, device=device) < share
        others = torch.randint(vocabulary, tokens.shape, generator=generator, device=device)
        return torch.where(replaced, others, tokens)
