"""A bag of hashed words: learned with the world, of no fixed vocabulary (hash embeddings, Svenstrup et al. 2017).

Every word is the sum of two rows, one of each half of a table, that two parts of its hash choose. Two words share both
with a probability of 1 / buckets², so that a small table tells thousands of words apart. Rows begin at 0 and stay there
until a word that uses them has been learned: an unknown word says nothing, and is known to be unknown.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.text import MOST_WORDS, hash_text, hash_word, split_words

__all__ = ["BagOfWords"]


class BagOfWords(nn.Module):
    """Texts, as hashes of their words, to vectors.

    Args:
        buckets: rows of each half of the table.
        size: width of a vector.
    """

    tokens = MOST_WORDS
    """Numbers that a text is encoded as."""

    def __init__(self, buckets: int, size: int) -> None:
        super().__init__()
        self.buckets = buckets
        self.table = nn.Parameter(torch.zeros(2 * buckets + 1, size))  # the first row is that of no word, always 0

    def forward(self, hashes: Tensor) -> Tensor:
        """Hashes (..., `tokens`) int64, 0 for no word, -> the sum of the words' vectors, (..., size); 0 without any."""
        rows = functional.embedding(self._rows(hashes), self.table, padding_idx=0)  # ... tokens 2 size
        return rows.sum(dim=(-3, -2))

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Return the hashes of texts, (n, `tokens`) int64."""
        return torch.from_numpy(np.stack([hash_text(text) for text in texts]))

    def unknown_words(self, text: str) -> list[str]:
        """Return the words of a text that this has not learned."""
        words = split_words(text)
        rows = self._rows(torch.tensor([hash_word(word) for word in words], device=self.table.device))  # n 2
        known = (self.table.detach()[rows] != 0).any(dim=-1).all(dim=-1)
        return [word for word, seen in zip(words, known.tolist(), strict=True) if not seen]

    def _rows(self, hashes: Tensor) -> Tensor:
        """Hashes (...) -> the two rows of each, (..., 2); 0 for no word."""
        code = hashes - 1
        first, second = code % self.buckets, code // self.buckets % self.buckets + self.buckets
        return torch.where(hashes[..., None] > 0, torch.stack((first, second), dim=-1) + 1, 0)
