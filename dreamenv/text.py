"""Text as a set of hashed words: no vocabulary, nothing to download, the same numbers on every machine.

A text becomes the 31-bit hashes (CRC-32) of its different words, in upper or lower case alike, in the order of the
hashes, and 0 where there are no more. So "Red objects" and "objects, red!" are the same, and no text is all zeros.
"""

from __future__ import annotations

import re
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamenv.checks import show
from dreamenv.errors import PromptError

__all__ = ["MOST_HASH", "MOST_WORDS", "check_text", "hash_text", "hash_word", "split_words"]

MOST_WORDS = 32
"""Different words that a text may have."""

MOST_HASH = 2**31 - 1
"""The greatest hash of a word; the least is 1."""

_WORD = re.compile(r"\w+")


def split_words(text: str) -> list[str]:
    """Return the different words of a text, in lower case, in the order in which they come first."""
    return list(dict.fromkeys(_WORD.findall(text.casefold())))


def hash_word(word: str) -> int:
    """Return a word's hash, in 1 ... `MOST_HASH`."""
    return 1 + zlib.crc32(word.encode("utf-8", "surrogatepass")) % MOST_HASH


def check_text(name: str, value: Any, *, error: type[Exception] = PromptError) -> str:
    """Return a text with a word at least, and `MOST_WORDS` at most.

    Args:
        name: of the text, for the message.
        value: what should be one.
        error: what to raise.

    Raises:
        PromptError: it is none.
    """
    if not isinstance(value, str):
        raise error(f"{name} must be a string, or None for none, not {show(value)}.")
    words = len(split_words(value))
    if words == 0:
        raise error(f"{name} is {show(value)}, which has no word; give None for none.")
    if words > MOST_WORDS:
        raise error(f"{name} has {words} different words, more than the {MOST_WORDS} that are read; shorten it.")
    return value


def hash_text(text: str) -> NDArray[np.int64]:
    """Return (`MOST_WORDS`,) int64, the hashes of a text's different words, descending, then zeros.

    Words beyond `MOST_WORDS` are left out: see `check_text`.
    """
    hashes = sorted({hash_word(word) for word in split_words(text)[:MOST_WORDS]}, reverse=True)
    return np.array(hashes + [0] * (MOST_WORDS - len(hashes)), np.int64)
