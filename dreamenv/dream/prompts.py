"""Prompts as users give them, a string or one per row, to what the model takes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dreamenv.capabilities import SupportsPrompt
from dreamenv.dream.batch import DreamBatch
from dreamenv.dream.options import read_rows
from dreamenv.errors import PromptError, ResetNeededError
from dreamenv.text import check_text, split_words
from dreamenv.world_model import WorldModel

__all__ = ["Prompting", "encode_prompts", "first_prompts", "read_prompts"]

Rows = NDArray[np.int64]


class Prompting:
    """The part of `DreamVectorEnv` that is asked for something."""

    num_envs: int
    _dreams: DreamBatch
    _device: torch.device

    def prompt(self, prompt: str | Sequence[str | None] | None, rows: int | Sequence[int] | Rows | None = None) -> None:
        """Ask rows (None: all) for something else from the next step on, until another prompt or the dream's end.

        Args:
            prompt: one string for all of them or one for each; None asks for nothing.
            rows: which.

        Raises:
            PromptError: the world takes none, or an empty or unknown one; nothing has changed.
            InputError, ResetNeededError, ClosedError: no such row, before the first reset, after `close`.
        """
        self._check_open()
        if not self._dreams.started:
            raise ResetNeededError("reset() must be called before prompt().")
        where = np.arange(self.num_envs) if rows is None else read_rows(rows, self.num_envs)
        prompts = encode_prompts(self._dreams.model, read_prompts(prompt, len(where)), self._device)
        if prompts is not None:
            self._dreams.prompt(where, prompts)

    def _check_open(self) -> None:
        raise NotImplementedError


def read_prompts(given: Any, rows: int) -> list[Any]:
    """Return what was given for each of so many rows, not yet checked; one string, or None, is for all of them.

    Raises:
        PromptError: for another number of rows.
    """
    if isinstance(given, str) or given is None or not hasattr(given, "__len__"):
        return [given] * rows
    if len(given) != rows:
        raise PromptError(f"a prompt is one string, or one for each of {rows} rows, not {len(given)}.")
    return [str(one) if isinstance(one, str) else one for one in given]


def first_prompts(
    options: Mapping[str, Any] | None, usual: str | None, rows: NDArray[np.int64], total: int
) -> list[Any]:
    """Return what dreams in these rows (n,) of ``total`` begin with: the reset's option "prompt", or what is usual."""
    given = read_prompts((options or {}).get("prompt"), total)
    return [usual if given[row] is None else given[row] for row in rows.tolist()]


def encode_prompts(model: WorldModel, prompts: Sequence[Any], device: torch.device) -> Tensor | None:
    """Return the prompts (n, w) of strings or None, one per row; None if the world takes none and none are asked for.

    Raises:
        PromptError: the world takes no prompts; or one is no string, empty, too long, or of unknown words alone.
    """
    if not isinstance(model, SupportsPrompt):
        asked = [prompt for prompt in prompts if prompt is not None]
        if not asked:
            return None
        raise PromptError(
            f"this world takes no prompts ({asked[0]!r}): it was trained without captions. Leave the prompt out, or "
            "train one that does: preset 'prompted' of the backbone 'rssm', on a recording with captions."
        )
    for prompt in {prompt for prompt in prompts if isinstance(prompt, str)}:
        _check_known(model, check_text("a prompt", prompt))
    texts = ["" if prompt is None else check_text("a prompt", prompt) for prompt in prompts]
    return model.prompt_encoder.encode(texts).to(device)


def _check_known(model: SupportsPrompt, prompt: str) -> None:
    unknown = model.prompt_encoder.unknown_words(prompt)
    if len(unknown) == len(split_words(prompt)):
        raise PromptError(
            f"this world has learned none of the words of the prompt {prompt!r}; use those of its recording's captions."
        )
    if unknown:
        warnings.warn(
            f"this world has not learned {', '.join(map(repr, unknown))} of the prompt {prompt!r}: it has no effect.",
            stacklevel=5,
        )
