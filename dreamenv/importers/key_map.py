"""KeyMap of tensors, theirs and ours, and the way from one to the other in both directions.

A name is a pattern in which each ``*`` stands for a number, in the same order on both sides. Where a published tensor
is laid out in another way than ours, a rule says how to get from one to the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

__all__ = ["KeyMap", "Rule"]


def _same(tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True)
class Rule:
    """One kind of tensor.

    Attributes:
        theirs: its published name.
        ours: its name in our model.
        read: from their layout to ours.
        write: and back.
    """

    theirs: str
    ours: str
    read: Callable[[Tensor], Tensor] = _same
    write: Callable[[Tensor], Tensor] = _same


class KeyMap:
    """All tensors of a system.

    Args:
        rules: one per kind of tensor; a pair of names will do for one that is laid out alike.
    """

    def __init__(self, rules: Iterable[Rule | tuple[str, str]]) -> None:
        self.rules = [rule if isinstance(rule, Rule) else Rule(*rule) for rule in rules]

    def to_ours(self, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return the tensors under our names, and the published names that no rule knows."""
        return self._renamed(tensors, [(rule.theirs, rule.ours, rule.read) for rule in self.rules])

    def to_theirs(self, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return the tensors under their published names, and our names that no rule knows."""
        return self._renamed(tensors, [(rule.ours, rule.theirs, rule.write) for rule in self.rules])

    @staticmethod
    def _renamed(
        tensors: Mapping[str, Tensor], ways: list[tuple[str, str, Callable[[Tensor], Tensor]]]
    ) -> tuple[dict[str, Tensor], list[str]]:
        compiled = [(re.compile(re.escape(old).replace(r"\*", r"(\d+)")), new, change) for old, new, change in ways]
        renamed, unknown = {}, []
        for name, tensor in tensors.items():
            for pattern, new, change in compiled:
                found = pattern.fullmatch(name)
                if found:
                    renamed[_filled(new, found.groups())] = change(tensor)
                    break
            else:
                unknown.append(name)
        return renamed, unknown


def _filled(pattern: str, numbers: Iterable[str]) -> str:
    pieces = pattern.split("*")
    return pieces[0] + "".join(number + piece for number, piece in zip(numbers, pieces[1:], strict=True))
