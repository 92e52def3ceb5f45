"""A transformer over a stream of tokens, as LLaMA's decoder (Touvron et al. 2023), with keys and values kept outside.

Root mean square normalisation, rotary positions, gated feed-forward layers and grouped keys and values; no biases.
Masks are given: what is causal is for the order of tokens to say (`dreamenv.backbones.tokens.layout`).

Letters: ``b`` rows, ``n`` new tokens, ``m`` tokens that are attended to, ``w`` width, ``d`` channels of a head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.errors import ConfigError
from dreamenv.nn.attention import check_heads
from dreamenv.nn.precision import Linear
from dreamenv.parts import Part

__all__ = ["KeysValues", "TokenTransformer", "TokenTransformerConfig"]

_BASE = 10_000.0  # of the rotations' wavelengths
_EPSILON = 1e-5  # of the normalisation, as LLaMA's


@dataclass(frozen=True, kw_only=True)
class TokenTransformerConfig(Part, kind="token_transformer"):
    """Settings.

    Attributes:
        context: past frames that a token attends to.
        width: of a token.
        depth: layers.
        heads: of attention; each is a multiple of 2 wide.
        kv_heads: of keys and values, each shared by as many queries (Ainslie et al. 2023).
        hidden: width of the feed-forward layers, which have three matrices of this size.
        places: a learned vector for each place that a token can have in a step, added to it.

    Raises:
        ConfigError: sizes that cannot be.
    """

    context: int = 15
    width: int = 256
    depth: int = 6
    heads: int = 4
    kv_heads: int = 4
    hidden: int = 688
    places: bool = True

    def __post_init__(self) -> None:
        for name in ("context", "depth", "kv_heads", "hidden"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
        check_heads(self.width, self.heads, 2)
        if self.heads % self.kv_heads:
            raise ConfigError(f"kv_heads must divide the {self.heads} heads, which {self.kv_heads} do not.")

    @property
    def head_size(self) -> int:
        """Return d."""
        return self.width // self.heads


class KeysValues:
    """Room for the keys and values of a stretch of tokens, in all layers; new ones are written in place.

    Args:
        keys, values: (b, depth, kv_heads, room, d).
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys, values
        self._layers = list(zip(keys.unbind(1), values.unbind(1), strict=True))

    @classmethod
    def after(cls, keys: Tensor, values: Tensor, room: int) -> KeysValues:
        """Copy what is cached, (b, depth, kv_heads, c, d), and leave room for more tokens behind it."""
        b, depth, heads, c, d = keys.shape
        both = []
        for cached in (keys, values):
            one = cached.new_empty(b, depth, heads, c + room, d)
            one[..., :c, :] = cached
            both.append(one)
        return cls(*both)

    def put(self, layer: int, keys: Tensor, values: Tensor, first: int, at: int) -> tuple[Tensor, Tensor]:
        """Write those of new tokens from ``at`` on; return all from ``first`` to the last of them."""
        kept_keys, kept_values = self._layers[layer]
        last = at + keys.shape[-2]
        kept_keys[:, :, at:last] = keys
        kept_values[:, :, at:last] = values
        return kept_keys[:, :, first:last], kept_values[:, :, first:last]


class TokenTransformer(nn.Module):
    """The layers and the last normalisation; embedding and prediction of tokens are others' business.

    Args:
        config: its settings.
    """

    speeds: Tensor

    def __init__(self, config: TokenTransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.depth))
        self.norm = _RMSNorm(config.width)
        half = config.head_size // 2
        speeds = _BASE ** (-torch.arange(half, dtype=torch.float64) / half)
        self.register_buffer("speeds", speeds, persistent=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:  # the sum of all layers' outputs is as large as the input (GPT-2)
                scale = (2 * config.depth) ** -0.5 if name.endswith(("out_proj.weight", "down.weight")) else 1.0
                nn.init.normal_(parameter, std=scale * config.width**-0.5)

    def turns(self, positions: Tensor) -> Tensor:
        """Return the rotations of positions (..., n) int64 in the stream, (..., n, 1, d / 2) complex64.

        Angles are computed in double precision: a dream may be long, and only their differences count.
        """
        angles = positions[..., None, None] * self.speeds
        return torch.complex(angles.cos().float(), angles.sin().float())

    def forward(
        self, tokens: Tensor, turns: Tensor, bias: Tensor, cache: KeysValues | None = None, first: int = 0, at: int = 0
    ) -> Tensor:
        """Run new tokens through the layers.

        Args:
            tokens: (b, n, w).
            turns: (b or 1, n, 1, d / 2), the rotations of their positions.
            bias: (b or 1, 1, n or 1, m), 0 where a token attends and minus infinity where not.
            cache: where their keys and values are written, which are attended to along with those before them; None
                if they attend to each other alone.
            first, at: of the cache, where what is attended to and what is new begin; m = at + n - first.

        Returns:
            (b, n, w), normalised.
        """
        for index, layer in enumerate(self.layers):
            tokens = layer(tokens, turns, bias, cache, index, first, at)
        normal: Tensor = self.norm(tokens)
        return normal


class _RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, tokens: Tensor) -> Tensor:
        return functional.rms_norm(tokens, self.weight.shape, self.weight, _EPSILON)


class _Layer(nn.Module):
    def __init__(self, config: TokenTransformerConfig) -> None:
        super().__init__()
        width, d = config.width, config.head_size
        self.heads, self.kv_heads, self.d = config.heads, config.kv_heads, d
        self.attention_norm, self.feed_norm = _RMSNorm(width), _RMSNorm(width)
        self.qkv = Linear(width, (config.heads + 2 * config.kv_heads) * d, bias=False)
        self.out_proj = Linear(width, width, bias=False)
        self.up = Linear(width, 2 * config.hidden, bias=False)
        self.down = Linear(config.hidden, width, bias=False)

    def forward(
        self, tokens: Tensor, turns: Tensor, bias: Tensor, cache: KeysValues | None, index: int, first: int, at: int
    ) -> Tensor:
        b, n, width = tokens.shape
        both, values = (
            self.qkv(self.attention_norm(tokens))
            .view(b, n, -1, self.d)
            .split((self.heads + self.kv_heads, self.kv_heads), dim=2)
        )
        # Pairs of channels side by side are complex numbers, which one product rotates.
        turned = torch.view_as_real(torch.view_as_complex(both.float().unflatten(-1, (-1, 2))) * turns).flatten(-2)
        query, keys = turned.transpose(1, 2).split((self.heads, self.kv_heads), dim=1)
        values = values.transpose(1, 2)
        if cache is not None:
            keys, values = cache.put(index, keys, values, first, at)
        attended = self._attend(query, keys, values, bias)
        tokens = _add(tokens, self.out_proj, attended.transpose(1, 2).reshape(b, n, width))
        gate, inner = self.up(self.feed_norm(tokens)).chunk(2, dim=-1)
        return _add(tokens, self.down, functional.silu(gate) * inner)

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """Queries (b, heads, n, d), keys and values (b, kv_heads, m, d) -> (b, heads, n, d)."""
        shared, n = self.heads // self.kv_heads, query.shape[2]
        if shared > 1:  # queries that share a key are as many tokens to it
            query = query.unflatten(1, (self.kv_heads, shared)).flatten(2, 3)
            bias = bias if bias.shape[2] == 1 else bias.repeat(1, 1, shared, 1)
        attended = functional.scaled_dot_product_attention(query, keys, values, attn_mask=bias)
        return attended.unflatten(2, (shared, n)).flatten(1, 2) if shared > 1 else attended


def _add(tokens: Tensor, layer: nn.Linear, inputs: Tensor) -> Tensor:
    """Return tokens (b, n, w) plus what a layer makes of inputs (b, n, i), in one call where that is possible."""
    if torch.is_grad_enabled() or layer.weight.dtype != inputs.dtype:
        made: Tensor = layer(inputs)
        return tokens + made
    return torch.addmm(tokens.flatten(0, 1), inputs.flatten(0, 1), layer.weight.t()).view_as(tokens)
