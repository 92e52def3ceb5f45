"""The stream of tokens: what is known of it is cached, and what comes next is predicted.

Letters: ``b`` rows, ``t`` steps, ``l`` tokens of a frame, ``a`` tokens of an action, ``s`` slots of a step, ``c``
cached slots, ``w`` width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dreamenv.backbones.tokens.layout import visible
from dreamenv.backbones.tokens.order import Order
from dreamenv.backbones.tokens.transformer import KeysValues, TokenTransformer
from dreamenv.nn.precision import Linear

__all__ = ["StreamMemory", "TokenDynamics"]

_STRETCH = 1024  # slots that are run through the transformer at once, or as many as a step has

Draw = Callable[[Tensor, "slice | Tensor"], Tensor]
"""Logits (b, q, vocabulary) of these of a frame's tokens -> tokens (b, q) int64."""


@dataclass(frozen=True)
class StreamMemory:
    """What is cached of past slots, newest last.

    Attributes:
        keys, values: (b, depth, kv_heads, c, d).
        length: (b,) int64, how many of them are there.
        position: (b,) int64, how many steps the stream has.
        passed: (b, w), what came out of the transformer after the last action, before the frame that it led to.
    """

    keys: Tensor
    values: Tensor
    length: Tensor
    position: Tensor
    passed: Tensor


@dataclass
class _Biases:
    """Within a block, of each pass; made once per device."""

    of_passes: list[Tensor] = field(default_factory=list)
    device: torch.device | None = None


class TokenDynamics(nn.Module):
    """Transformer, order, and the prediction of tokens.

    Args:
        transformer: over the stream.
        order: of a step's slots.
        vocabulary: how many tokens of frames there are.
    """

    def __init__(self, transformer: TokenTransformer, order: Order, vocabulary: int) -> None:
        super().__init__()
        width = transformer.config.width
        self.transformer, self.order = transformer, order
        self.logits = Linear(width, vocabulary, bias=False)
        nn.init.normal_(self.logits.weight, std=0.02)
        self.layout = order.layout
        slots = self.layout.slots
        self.places = nn.Parameter(torch.randn(slots, width) * width**-0.5) if transformer.config.places else None
        self.cached = transformer.config.context * self.layout.kept
        self._biases = _Biases()

    # What is known

    def begin(self, tokens: Tensor) -> StreamMemory:
        """Return the memory of streams that begin with frames (b, l)."""
        config, b, device = self.transformer.config, len(tokens), tokens.device
        shape = b, config.depth, config.kv_heads, self.cached, config.head_size
        keys, none = torch.zeros(shape, device=device), torch.zeros(b, dtype=torch.int64, device=device)
        memory = StreamMemory(keys, keys.clone(), none, none.clone(), torch.zeros(b, config.width, device=device))
        if self.layout.opens and self.layout.body:
            inputs = self._body(tokens[:, None], None)
            memory, _ = self._extend(memory, inputs, range(self.layout.slots - self.layout.body, self.layout.slots))
        return memory

    def follow(self, memory: StreamMemory, before: Tensor, acted: Tensor, tokens: Tensor) -> StreamMemory:
        """Take in steps.

        Args:
            memory: of the stream so far.
            before: (b, l), the frame before the first step.
            acted: (b, t, a, w), the tokens of the actions taken.
            tokens: (b, t, l), of the frames that they led to.
        """
        kept = self.layout.kept
        for part in _stretches(tokens.shape[1], kept):
            inputs = self._inputs(before, acted[:, part], tokens[:, part], None)[:, :, :kept]
            memory, _ = self._extend(memory, inputs, range(kept))
            before = tokens[:, part.stop - 1]
        return memory

    def nats(self, memory: StreamMemory, before: Tensor, acted: Tensor, tokens: Tensor) -> Tensor:
        """Return the negative log-likelihood of frames given all before them, (b, t) nats; arguments as `follow`."""
        found = []
        slots = self.layout.slots
        for part in _stretches(tokens.shape[1], slots):
            now, kept, total = tokens[:, part], memory, torch.zeros((), device=tokens.device)
            for index in range(self.order.rounds):
                round_of = torch.full(now.shape[:2], index, device=tokens.device)
                inputs = self._inputs(before, acted[:, part], now, round_of)
                kept, outputs = self._extend(memory, inputs, range(slots))
                total = total + self._cross_entropy(outputs[:, :, self._predicting()], now, round_of).sum(dim=-1)
            memory, before = kept, now[:, -1]
            found.append(total)
        return torch.cat(found, dim=1)

    def learned_nats(
        self, acted: Tensor, tokens: Tensor, shown: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Return what is learned from: an unbiased estimate of `nats` by token, and what came out after each action.

        Args:
            acted: (b, t, a, w), the tokens of the actions taken.
            tokens: (b, t + 1, l), of a stream that begins with the first of them.
            shown: the same, as they are shown: some may be disturbed.
            generator: of the round that each frame is predicted in.

        Returns:
            (b, t, l), 0 where a token is not predicted, and (b, t, w).
        """
        layout, (b, t) = self.layout, acted.shape[:2]
        round_of = torch.randint(self.order.rounds, (b, t), generator=generator, device=tokens.device)
        stream = self._inputs(shown[:, 0], acted, shown[:, 1:], round_of).flatten(1, 2)
        device, slots = tokens.device, torch.arange(layout.slots, device=tokens.device)
        block, slot = torch.arange(1, t + 1, device=device).repeat_interleave(layout.slots), slots.repeat(t)
        opening = layout.body if layout.opens else 0
        if opening:
            stream = torch.cat((self._body(shown[:, :1], None).flatten(1, 2), stream), dim=1)
            block = torch.cat((torch.zeros(opening, dtype=torch.int64, device=device), block))
            slot = torch.cat((slots[-opening:], slot))
        bias = visible(layout, self.transformer.config.context, block, slot, block, slot)
        turns = self.transformer.turns(block * layout.slots + slot)[None]
        outputs = self.transformer(stream, turns, bias[None, None])[:, opening:].unflatten(1, (t, layout.slots))
        nats = self._cross_entropy(outputs[:, :, self._predicting()], tokens[:, 1:], round_of)
        return nats * self.order.rounds, outputs[:, :, layout.acted]

    # What comes next

    def dream(
        self, memory: StreamMemory, before: Tensor, acted: Tensor, draw: Callable[[int], Draw]
    ) -> tuple[StreamMemory, Tensor, Tensor, Tensor]:
        """Draw the frames that actions lead to.

        Args:
            memory: of the stream so far.
            before: (b, l), its last frame.
            acted: (b, k, a, w), the tokens of the actions taken.
            draw: step -> what draws its tokens.

        Returns:
            The memory after them; tokens (b, k, l); what came out after each action (b, k, w); the mean entropy of a
            token of each frame, (b, k) nats.
        """
        layout, (b, k), c = self.layout, acted.shape[:2], self.cached
        room = KeysValues.after(memory.keys, memory.values, k * layout.kept + layout.slots - layout.kept)
        length, position = memory.length, memory.position
        slots = torch.arange(layout.slots, device=before.device)
        frames, passed, entropies = [], [], []
        for index in range(k):
            bias = torch.cat((self._missing(length), self._missing(length).new_zeros(b, layout.slots)), dim=1)
            turns = self.transformer.turns(position[:, None] * layout.slots + slots)
            tokens, found = torch.zeros_like(before), []
            drawer = draw(index)
            for number, one in enumerate(layout.passes):
                inputs = self.order.step(tokens, number)
                if number == 0:
                    inputs = torch.cat((self.order.lead(before), acted[:, index], inputs), dim=1)
                if self.places is not None:
                    inputs = inputs + self.places[one.start : one.stop]
                outputs = self.transformer(
                    inputs, turns[:, one.start : one.stop], self._pass_bias(bias, number), room,
                    index * layout.kept, c + index * layout.kept + one.start,
                )  # fmt: skip
                if number == 0:
                    passed.append(outputs[:, layout.acted])
                logits = self.logits(outputs[:, one.predicting])
                found.append(logits)
                tokens[:, one.drawn] = drawer(logits, one.drawn)
            entropies.append(_entropy(torch.cat(found, dim=1)))
            frames.append(tokens)
            before, position, length = tokens, position + 1, (length + layout.kept).clamp_max(c)
        first = k * layout.kept
        memory = StreamMemory(
            room.keys[..., first : first + c, :], room.values[..., first : first + c, :], length, position, passed[-1]
        )
        return memory, torch.stack(frames, dim=1), torch.stack(passed, dim=1), torch.stack(entropies, dim=1)

    # Parts of both

    def _inputs(self, before: Tensor, acted: Tensor, tokens: Tensor, round_of: Tensor | None) -> Tensor:
        """Return all slots of steps, (b, t, s, w): the frame before each (the first is given), action, frame."""
        b, t = tokens.shape[:2]
        previous = torch.cat((before[:, None], tokens[:, :-1]), dim=1).flatten(0, 1)
        lead = self.order.lead(previous).unflatten(0, (b, t))
        if self.places is not None:
            known = self.layout.lead + self.layout.actions
            lead, acted = lead + self.places[: self.layout.lead], acted + self.places[self.layout.lead : known]
        return torch.cat((lead, acted, self._body(tokens, round_of)), dim=2)

    def _body(self, tokens: Tensor, round_of: Tensor | None) -> Tensor:
        """Return the slots that stand for frames (b, t, l), (b, t, body, w)."""
        flat = tokens.flatten(0, 1)
        rounds = torch.zeros_like(flat[:, 0]) if round_of is None else round_of.flatten()
        body: Tensor = self.order.body(flat, rounds).unflatten(0, tokens.shape[:2])
        return body if self.places is None else body + self.places[self.layout.slots - self.layout.body :]

    def _extend(self, memory: StreamMemory, inputs: Tensor, slots: range) -> tuple[StreamMemory, Tensor]:
        """Run these slots of steps, (b, t, s, w), after what is cached.

        Returns:
            The memory with those that are kept, and what came out, (b, t, s, w).
        """
        layout, c, (t, s) = self.layout, self.cached, inputs.shape[1:3]
        device, context = inputs.device, self.transformer.config.context
        slot = torch.tensor(slots, device=device)
        block = torch.arange(t, device=device).repeat_interleave(s)
        past = torch.arange(c, device=device)
        bias = visible(
            layout, context, block, slot.repeat(t),
            torch.cat((past // layout.kept - context, block)), torch.cat((past % layout.kept, slot.repeat(t))),
        )  # fmt: skip
        missing = nn.functional.pad(self._missing(memory.length), (0, t * s))
        turns = self.transformer.turns(memory.position[:, None] * layout.slots + block * layout.slots + slot.repeat(t))
        room = KeysValues.after(memory.keys, memory.values, t * s)
        outputs = self.transformer(inputs.flatten(1, 2), turns, bias + missing[:, None, None], room, 0, c)
        outputs = outputs.unflatten(1, (t, s))
        kept = slot < layout.kept
        keys, values = (
            torch.cat((one[..., :c, :], one[..., c:, :].unflatten(-2, (t, s))[..., kept, :].flatten(-3, -2)), dim=-2)
            for one in (room.keys, room.values)
        )
        acted = layout.acted - slots.start
        return StreamMemory(
            keys=keys[..., keys.shape[-2] - c :, :],
            values=values[..., values.shape[-2] - c :, :],
            length=(memory.length + t * int(kept.sum())).clamp_max(c),
            position=memory.position + t,
            passed=outputs[:, -1, acted] if acted >= 0 else memory.passed,
        ), outputs

    def _missing(self, length: Tensor) -> Tensor:
        """Return minus infinity where nothing is cached yet, else 0, (b, c)."""
        age = torch.arange(self.cached, 0, -1, device=length.device)  # the newest is 1
        return torch.zeros((len(length), self.cached), device=length.device).masked_fill_(
            age > length[:, None], -math.inf
        )

    def _pass_bias(self, cached: Tensor, number: int) -> Tensor:
        """Return the bias of a pass, (b, 1, n or 1, m), given that of the cached slots and zeros, (b, c + s)."""
        one, device = self.layout.passes[number], cached.device
        if self._biases.device != device:
            slots = torch.arange(self.layout.slots, device=device)
            block = torch.zeros_like(slots)
            within = visible(self.layout, 0, block, slots, block, slots)
            self._biases.of_passes = [within[each.start : each.stop, : each.stop] for each in self.layout.passes]
            self._biases.device = device
        upto = cached[:, None, None, : self.cached + one.stop]
        if one.stop - one.start == 1:  # it sees all that there is
            return upto
        return upto + nn.functional.pad(self._biases.of_passes[number], (self.cached, 0))

    def _predicting(self) -> Tensor:
        return self.layout.predicting.to(self.logits.weight.device)

    def _cross_entropy(self, outputs: Tensor, tokens: Tensor, round_of: Tensor) -> Tensor:
        """Return the nats of tokens (b, t, l) by what came out where they are predicted; 0 in other rounds."""
        logits = self.logits(outputs).float()
        nats = nn.functional.cross_entropy(logits.flatten(0, 2), tokens.flatten(), reduction="none").view_as(tokens)
        predicted = self.order.predicted_in(round_of.flatten())
        return nats if predicted is None else nats * predicted.view_as(nats)


def _entropy(logits: Tensor) -> Tensor:
    """Return the mean entropy of tokens, (b,) nats, by their logits (b, l, vocabulary)."""
    log_probs = logits.float().log_softmax(dim=-1)
    return -(log_probs.exp() * log_probs).sum(dim=-1).mean(dim=-1)


def _stretches(steps: int, slots: int) -> list[slice]:
    """Return the steps in stretches that are run at once."""
    most = max(1, _STRETCH // slots)
    return [slice(first, min(first + most, steps)) for first in range(0, steps, most)]
