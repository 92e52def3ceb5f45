"""Counter-based random streams, one per row, the same on every device.

A row's stream is a 64-bit key and a counter of imagined steps, both kept in the dream's state. Numbers are a hash of
(key, counter, stream, index), so they depend on nothing else: not on the other rows, the batch size, the device or
earlier samples. The hash is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC
2011), written on int64 tensors because torch has no unsigned 32-bit arithmetic; masks keep the low 32 bits.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "TEMPERATURE_FLOOR",
    "categorical",
    "categorical_of",
    "host_philox",
    "normal",
    "philox4x32",
    "seed_keys",
    "uniform",
    "uniform_numpy_seed",
]

Words = NDArray[np.uint64]

TEMPERATURE_FLOOR = 1e-4
"""Temperatures below this sample the most likely value."""

_MASK = 0xFFFFFFFF
_MULTIPLIERS = np.array((0xD2511F53, 0xCD9E8D57), np.uint64)  # Salmon et al. 2011, Philox4x32
_WEYL = np.array((0x9E3779B9, 0xBB67AE85), np.uint64)  # golden ratio and sqrt(3) - 1, as in the paper
_ROUNDS = 10
_AHEAD, _FEW_ROWS, _FEW_NUMBERS = 16, 4, 128  # steps whose numbers are sampled together, for at most so many of both
_SEED_STREAM = 0x5EED  # counter word that separates the hashing of seeds from all sampling


def philox4x32(counter: Tensor, key: Tensor) -> Tensor:
    """Hash counters under keys.

    Args:
        counter: (4, ...) int64, each in [0, 2**32).
        key: (2, ...) int64, each in [0, 2**32); broadcasts against the counter's trailing axes.

    Returns:
        (4, ...) int64, each in [0, 2**32).
    """
    # The paper's round acts on two pairs of words alike, so both travel in one tensor: even = (x0, x2), odd = (x1, x3).
    even, odd = counter[0::2], counter[1::2]
    trailing = (2,) + (1,) * (even.ndim - 1)
    multipliers, weyl = _words(counter.device)
    multipliers, weyl = multipliers.view(trailing), weyl.view((2,) + (1,) * (key.ndim - 1))
    for _ in range(_ROUNDS):
        product = even * multipliers  # wraps modulo 2**64, which keeps all 64 bits of the unsigned product
        even = (product >> 32 & _MASK).flip(0) ^ odd ^ key
        odd = (product & _MASK).flip(0)
        key = key + weyl & _MASK
    return torch.stack((even[0], odd[0], even[1], odd[1]))


@functools.cache
def _words(device: torch.device) -> tuple[Tensor, Tensor]:
    """Multipliers and increments, (2,) each, copied to a device once: it waits for copies."""
    multipliers, weyl = (torch.from_numpy(words.view(np.int64)).to(device) for words in (_MULTIPLIERS, _WEYL))
    return multipliers, weyl


def host_philox(counter: Words, key: Words) -> Words:
    """Compute `philox4x32` on uint64 arrays; for few numbers, numpy is several times as fast as torch."""
    even, odd = counter[0::2], counter[1::2]
    multipliers = _MULTIPLIERS.reshape((2,) + (1,) * (even.ndim - 1))
    weyl = _WEYL.reshape((2,) + (1,) * (key.ndim - 1))
    mask, shift = np.uint64(_MASK), np.uint64(32)
    rounds = np.arange(_ROUNDS, dtype=np.uint64).reshape((_ROUNDS,) + (1,) * key.ndim)
    for round_key in key + rounds * weyl & mask:  # calls cost more than numbers here, so all rounds' keys at once
        product = even * multipliers
        even = (product >> shift)[::-1] ^ odd
        even ^= round_key
        product &= mask
        odd = product[::-1]
    return np.stack((even[0], odd[0], even[1], odd[1]))


def seed_keys(seed: Tensor) -> Tensor:
    """Turn seeds (b,) int64, at least 0, into well-mixed 64-bit keys (b,) int64; distinct seeds get distinct keys.

    Philox is a bijection of its counter, so the two words taken here could collide only by hashing; a 64-bit birthday
    collision among a million seeds has probability 3e-8.
    """
    zero = torch.zeros_like(seed)
    words = philox4x32(
        torch.stack((seed & _MASK, seed >> 32 & _MASK, zero, zero + _SEED_STREAM)), torch.stack((zero, zero))
    )
    return words[0] << 32 | words[1]


def uniform(key: Tensor, counter: Tensor, shape: tuple[int, ...] = (), *, stream: int = 0) -> Tensor:
    """Sample (b, *shape) float32 uniforms in the open interval (0, 1).

    Args:
        key: (b,) int64, the rows' keys.
        counter: (b,) int64, the rows' steps.
        stream: distinguishes the samples of one step; at most 2**32 - 1.
    """
    rows, size = key.shape[0], math.prod(shape)
    on_host = key.device.type == "cpu"
    if on_host and rows <= _FEW_ROWS and size <= _FEW_NUMBERS:
        steps = zip(key.tolist(), counter.tolist(), strict=True)
        ahead = [_uniforms_ahead(one, step // _AHEAD, size, stream)[step % _AHEAD] for one, step in steps]
        values = torch.from_numpy(np.stack(ahead))
    elif on_host:
        halves = _to_uniform(_host_words(key, counter, size, stream))  # 4 b blocks
        values = torch.from_numpy(halves.transpose(1, 2, 0).reshape(rows, -1)[:, :size])
    else:
        # 23 bits and a half step: exactly representable, never 0 and never 1.
        values = ((_bits(key, counter, size, stream) >> 9).to(torch.float32) + 0.5) * 2.0**-23
    return values.view(rows, *shape)


@functools.lru_cache(maxsize=256)
def _uniforms_ahead(key: int, block: int, size: int, stream: int) -> NDArray[np.float32]:
    """Return what `uniform` samples of one row in a block of steps, (steps, size), most of them ahead of their use.

    Calls cost more than numbers where these are few, and steps follow each other: a single dream asks for 1/16 of the
    hashes. A memory of a pure function's results changes nothing else.
    """
    keys, steps = torch.full((_AHEAD,), key), torch.arange(block * _AHEAD, (block + 1) * _AHEAD)
    words = _host_words(keys, steps, size, stream)
    return np.ascontiguousarray(_to_uniform(words).transpose(1, 2, 0).reshape(_AHEAD, -1)[:, :size])


def _to_uniform(words: Words) -> NDArray[np.float32]:
    """Turn words into uniforms: 23 bits and a half step, exactly representable, never 0 and never 1."""
    uniforms: NDArray[np.float32] = ((words >> np.uint64(9)).astype(np.float32) + np.float32(0.5)) * np.float32(
        2.0**-23
    )
    return uniforms


def normal(key: Tensor, counter: Tensor, shape: tuple[int, ...] = (), *, stream: int = 0) -> Tensor:
    """Sample (b, *shape) float32 standard normals by Box and Muller's transform of `uniform`.

    The bits are equal on every device; log and cos may differ in the last place.
    """
    size = math.prod(shape)
    pairs = uniform(key, counter, (2, (size + 1) // 2), stream=stream)
    radius, angle = torch.sqrt(-2.0 * torch.log(pairs[:, 0])), 2.0 * math.pi * pairs[:, 1]
    both = torch.cat((radius * torch.cos(angle), radius * torch.sin(angle)), dim=1)
    return both[:, :size].reshape(key.shape[0], *shape)


def categorical(logits: Tensor, temperature: Tensor, key: Tensor, counter: Tensor, *, stream: int = 0) -> Tensor:
    """Sample indices (b, n) int64 from logits (b, n, classes) at a temperature per row (b,), by inverting the CDF.

    One uniform per variable, against one per class with Gumbel noise. Temperature divides the logits; below
    `TEMPERATURE_FLOOR` the most likely class is taken.
    """
    scaled = logits / temperature.clamp_min(TEMPERATURE_FLOOR).view(-1, 1, 1)
    cumulative = torch.softmax(scaled, dim=-1).cumsum(dim=-1)
    # Scaling by the last value keeps float rounding from ever choosing past the end.
    threshold = uniform(key, counter, (logits.shape[1], 1), stream=stream) * cumulative[..., -1:]
    return torch.searchsorted(cumulative, threshold.contiguous()).squeeze(-1)


def categorical_of(
    probabilities: Tensor, temperature: Tensor, key: Tensor, counter: Tensor, *, stream: int = 0
) -> Tensor:
    """Sample as `categorical` does, from probabilities (b, n, classes) that need not add up to 1; 0 is never drawn.

    For hundreds of classes: each pass over all of them counts, so at a temperature of 1 there is one, which adds up
    blocks; a block is chosen first, then a class in it.
    """
    weights = probabilities
    if temperature.device.type != "cpu" or bool((temperature != 1).any()):
        largest, at = weights.amax(dim=-1, keepdim=True), temperature.clamp_min(TEMPERATURE_FLOOR).view(-1, 1, 1)
        # A row at a temperature of 1 keeps its weights, so that it draws the same whatever those of other rows are.
        weights = torch.where(at == 1, weights, (weights / largest) ** (1 / at))
    classes = weights.shape[-1]
    side = next(size for size in range(math.isqrt(classes), 0, -1) if classes % size == 0)
    blocks = weights.unflatten(-1, (side, -1))
    ends = blocks.sum(dim=-1).cumsum(dim=-1)
    threshold = uniform(key, counter, (weights.shape[1], 1), stream=stream) * ends[..., -1:]
    block = torch.searchsorted(ends, threshold.contiguous())
    before = torch.where(block > 0, ends.gather(-1, (block - 1).clamp_min(0)), 0.0)
    inside = blocks.gather(-2, block[..., None].expand(-1, -1, -1, blocks.shape[-1])).squeeze(-2).cumsum(dim=-1)
    # Float rounding must neither pass the end of the block nor choose a class of probability 0 at its beginning.
    rest = torch.minimum(threshold - before, inside[..., -1:]).clamp_min(torch.finfo(weights.dtype).tiny)
    drawn: Tensor = block * blocks.shape[-1] + torch.searchsorted(inside, rest.contiguous())
    return drawn.squeeze(-1)


def uniform_numpy_seed(key: Tensor, counter: Tensor) -> int:
    """Make one 63-bit integer from a single row's stream, to seed a library that wants one."""
    bits = _bits(key[:1], counter[:1], 2, _SEED_STREAM)[0]
    return int((bits[0] << 31 | bits[1] >> 1) & 0x7FFFFFFFFFFFFFFF)


def _bits(key: Tensor, counter: Tensor, size: int, stream: int) -> Tensor:
    """Return (b, size) int64 random 32-bit words: block i of a row hashes (i, stream, counter low, counter high)."""
    rows, blocks = key.shape[0], (size + 3) // 4
    if key.device.type == "cpu":
        hashed = torch.from_numpy(_host_words(key, counter, size, stream).view(np.int64))
    else:
        index = torch.arange(blocks, device=key.device).expand(rows, blocks)
        low, high = (counter & _MASK)[:, None].expand_as(index), (counter >> 32 & _MASK)[:, None].expand_as(index)
        words = torch.stack((index, torch.full_like(index, stream), low, high))
        hashed = philox4x32(words, torch.stack((key & _MASK, key >> 32 & _MASK))[..., None])
    return hashed.permute(1, 2, 0).reshape(rows, blocks * 4)[:, :size]


def _host_words(key: Tensor, counter: Tensor, size: int, stream: int) -> Words:
    """Return the words of `_bits` on the host as they are hashed, (4, b, blocks)."""
    rows, blocks = key.shape[0], (size + 3) // 4
    keys, steps = key.numpy().view(np.uint64), counter.numpy().view(np.uint64)
    table = np.empty((4, rows, blocks), np.uint64)
    table[0], table[1] = np.arange(blocks, dtype=np.uint64), stream
    table[2], table[3] = (steps & np.uint64(_MASK))[:, None], (steps >> np.uint64(32))[:, None]
    halves = np.stack((keys & np.uint64(_MASK), keys >> np.uint64(32)))[..., None]
    return host_philox(table, halves)
