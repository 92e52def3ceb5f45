"""A slow prompt against the fast action: which of them does a world follow, where, and at what price?

Every dream has a behaviour that the prompt names ("the camera pans left"), content that it names ("red objects") and an
action, in one of four cases:

====================  ==========================  =============================
case                  the prompt names            the action
====================  ==========================  =============================
``agree``             a behaviour and content     does the same
``prompt_only``       a behaviour and content     is the no-op
``action_only``       nothing                     does something
``conflict``          a behaviour and content     does another behaviour
====================  ==========================  =============================

Counted are the frames in which a network that was trained on real frames (`dreamenv.metrics.inverse_dynamics`) sees the
action, or the prompt's behaviour where there is no action; and, of what a detector finds newly revealed, the share that
is as the prompt says. In ``conflict`` the action should win the frames, and the prompt still decide what they reveal.
The same counted of the real environment says how good network and detector are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dreamenv.errors import ConfigError
from dreamenv.metrics.inverse_dynamics import FRAMES, InverseDynamics
from dreamenv.metrics.statistics import wilson_interval

__all__ = ["CASES", "Film", "PromptTask", "Revealed", "Take", "follow_prompts", "returns_to_prompt"]

CASES = ("agree", "prompt_only", "action_only", "conflict")

Frames = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Revealed:
    """Something that a frame shows for the first time.

    Attributes:
        content: what a prompt may name of it ("red").
        other: what neither a prompt nor an action names (where it is).
    """

    content: str
    other: str = ""


@dataclass(frozen=True, kw_only=True)
class PromptTask:
    """What the prompts of an environment say, and how it is seen in frames.

    Attributes:
        behaviours: what a prompt may name, and the action that does the same.
        contents: what else it may name.
        noop: the action that leaves the prompt to act.
        say: the prompt that names a behaviour and content; None for one that is not named.
        reveal: what a frame (h, w, c) shows for the first time, after a step of a behaviour.
    """

    behaviours: Mapping[str, int]
    contents: Sequence[str]
    noop: int
    say: Callable[[str | None, str | None], str]
    reveal: Callable[[Frames, str], Sequence[Revealed]]

    def __post_init__(self) -> None:
        if len(self.behaviours) < 2 or not self.contents:
            raise ConfigError("a conflict needs two behaviours at least, and something to reveal.")


@dataclass(frozen=True, kw_only=True)
class Take:
    """One dream to film.

    Attributes:
        case: of `CASES`.
        behaviour, content: what its prompt names; None for nothing.
        done: the behaviour that should be seen.
        actions: one for each step.
        seed: its own.
    """

    case: str
    behaviour: str | None
    content: str | None
    done: str
    actions: tuple[int, ...]
    seed: int


Film = Callable[[Sequence[Take]], Frames]
"""Dreams, or plays, all takes: frames (n, t + 1, h, w, c), one before the first action and one after each."""


def follow_prompts(
    task: PromptTask, film: Film, network: InverseDynamics, *, steps: int = 12, repeats: int = 8, seed: int = 0
) -> dict[str, Any]:
    """Count what a world follows in every case, for all behaviours and contents in turn.

    Args:
        task: its prompts.
        film: of the world, or of reality.
        network: trained on real frames of the environment without prompts.
        steps: of each dream.
        repeats: dreams for each combination.
        seed: of the first dream.

    Returns:
        JSON values: for each case ``motion``, the share of frames that show the action (the prompt's behaviour where
        there is none), and ``content``, the share of what they reveal that is as the prompt says (None where it says
        nothing), each {mean, low, high, n}; and ``leakage``: half the sum of the differences between how often things
        of each ``Revealed.other`` are revealed with a prompt and without, in [0, 1].
    """
    takes = list(_takes(task, repeats, seed, lambda action: (action,) * steps))
    films = film(takes)
    motion, content = ({case: [0, 0] for case in CASES} for _ in range(2))
    others: dict[bool, dict[str, int]] = {True: {}, False: {}}
    for take, frames in zip(takes, films, strict=True):
        seen = network.recognise(_before(frames))
        _count(motion[take.case], int((seen == task.behaviours[take.done]).sum()), len(seen))
        for frame in frames[1:]:
            for thing in task.reveal(frame, take.done):
                if take.content is not None:
                    _count(content[take.case], int(thing.content == take.content), 1)
                places = others[take.content is not None]
                places[thing.other] = places.get(thing.other, 0) + 1
    shares = {case: {"motion": _share(*motion[case]), "content": _share(*content[case])} for case in CASES}
    return {**shares, "leakage": _distance(others[True], others[False])}


def returns_to_prompt(
    task: PromptTask,
    film: Film,
    network: InverseDynamics,
    *,
    held: int = 6,
    limit: int = 8,
    repeats: int = 8,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure how soon the prompt's behaviour returns when an action that contradicted it stops.

    Args:
        task: its prompts.
        film: of the world, or of reality.
        network: trained on real frames of the environment without prompts.
        held: steps that the action is held.
        limit: steps after which to give up.
        repeats: dreams for each combination.
        seed: of the first dream.

    Returns:
        JSON values: ``steps``, the median of the steps from the last action until the behaviour is seen (1 is at once;
        ``limit`` + 1 if it is not), and ``within``, the share that returned at all, {mean, low, high, n}.
    """
    every = _takes(task, repeats, seed, lambda action: (action,) * held + (task.noop,) * limit)
    takes = [take for take in every if take.case == "conflict"]
    steps = []
    for take, frames in zip(takes, film(takes), strict=True):
        assert take.behaviour is not None
        seen = network.recognise(_before(frames))[-limit:]
        found = np.flatnonzero(seen == task.behaviours[take.behaviour])
        steps.append(int(found[0]) + 1 if len(found) else limit + 1)
    returned = int((np.array(steps) <= limit).sum())
    return {"steps": float(np.median(steps)), "within": _share(returned, len(steps))}


def _takes(task: PromptTask, repeats: int, seed: int, held: Callable[[int], tuple[int, ...]]) -> Iterator[Take]:
    """Yield takes of every case; ``held`` gives the actions of a take, given the one that is done."""
    number = seed
    for named in task.behaviours:
        for content in task.contents:
            for case in CASES:
                for done in task.behaviours:
                    if (done != named) != (case == "conflict"):
                        continue
                    action = task.noop if case == "prompt_only" else task.behaviours[done]
                    prompt = (None, None) if case == "action_only" else (named, content)
                    for _ in range(repeats):
                        yield Take(
                            case=case, behaviour=prompt[0], content=prompt[1], done=done, actions=held(action),
                            seed=number,
                        )  # fmt: skip
                        number += 1


def _before(frames: Frames) -> Frames:
    """Return what the network sees of every step that has enough frames before it, (n, `FRAMES`, h, w, c)."""
    return np.stack([frames[i : i + FRAMES] for i in range(len(frames) - FRAMES + 1)])


def _count(pair: list[int], hits: int, total: int) -> None:
    pair[0] += hits
    pair[1] += total


def _share(hits: int, total: int) -> dict[str, Any] | None:
    """Return a share with its Wilson interval; None of nothing."""
    if total == 0:
        return None
    low, high = wilson_interval(hits, total)
    return {"mean": hits / total, "low": low, "high": high, "n": total}


def _distance(one: Mapping[str, int], other: Mapping[str, int]) -> float | None:
    """Return the total variation distance of two distributions of counts; None where one is empty."""
    if not one or not other:
        return None
    of_one, of_other = sum(one.values()), sum(other.values())
    names = {**one, **other}
    return sum(abs(one.get(name, 0) / of_one - other.get(name, 0) / of_other) for name in names) / 2
