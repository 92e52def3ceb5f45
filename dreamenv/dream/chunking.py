"""Control at every frame over a world that imagines several at once.

An agent gives one action at a time, and a model of ``spec.chunk`` n > 1 wants n of them. `ActionRepeatChunking`
assumes that the present action will be repeated: it samples n frames under it, and plays them one by one.
When another action comes, the frames played so far are observed as what happened, the rest is dropped, and n frames are
sampled from there.

So holistic full-sequence diffusion becomes an environment too: a window is planned ahead under the present action, and
planned again when the action changes or the window has been played.

**Cost.** One sampling of n frames for every change of action, and for every n frames under the same one: per frame the
model's own cost while actions are repeated, n times as much when each differs from the one before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from einops import repeat
from numpy.typing import NDArray
from torch import Tensor

from dreamenv.capabilities import (
    SupportsBfloat16,
    SupportsCalibrate,
    SupportsEmbed,
    SupportsPrompt,
    SupportsReconstruct,
)
from dreamenv.dream.states import STREAM_BOUNDS
from dreamenv.tensordicts import TensorDict
from dreamenv.world_model import (
    Imagined,
    Stage,
    State,
    StateBounds,
    WorldModel,
    check_actions,
    check_first_frame,
    check_frames,
    check_state,
)

__all__ = ["ActionRepeatChunking", "frame_by_frame"]

Rows = NDArray[np.int64]

_ENTRIES = ("before", "after", "imagined", "action", "played")
_STREAM = ("rng_key", "rng_counter", "temperature")


def frame_by_frame(model: WorldModel) -> WorldModel:
    """Return the model if it imagines frame by frame, else one that does so by `ActionRepeatChunking`."""
    return model if model.spec.chunk == 1 else ActionRepeatChunking(model)


class ActionRepeatChunking(WorldModel):
    """A model of ``spec.chunk`` n as one of chunk 1. It offers the capabilities that the model has, and no other.

    State: ``before``, the model's own state at the beginning of the present chunk, and ``after``, at its end;
    ``imagined``, the parts of `Imagined`, (b, n, ...) each, that were sampled for it under ``action`` (b, *a);
    ``played`` (b,) int64, how many of the n have been played. The random stream and temperature next to them are
    authoritative, and are written into the model's own states before use; a chunk sampled under others is sampled
    again.

    Rows are independent, and only those that need a chunk are sampled. How many these are depends on their companions,
    and a matrix product may round its last digit differently for another number of rows.

    A chunk that was played to its end goes on from the model's own state there, so that a dream of one action is the
    model's own dream. Everywhere else played frames are observed.

    Args:
        model: the world.
    """

    def __init__(self, model: WorldModel) -> None:
        super().__init__()
        self.model = model
        self.chunk = model.spec.chunk
        self.spec = dataclasses.replace(model.spec, chunk=1)
        self.estimates_uncertainty = model.estimates_uncertainty
        self._parts: tuple[str, ...] | None = None  # of `Imagined`, which the model fills; known after its first use
        # Protocols are checked by what an instance has, so it has what the model has.
        if isinstance(model, SupportsEmbed):
            self.embedding_size, self.embed = model.embedding_size, self._embed
        if isinstance(model, SupportsPrompt):
            self.prompt_encoder, self.prompt = model.prompt_encoder, self._prompted
        if isinstance(model, SupportsReconstruct):
            self.reconstruct = model.reconstruct
        if isinstance(model, SupportsCalibrate):
            self.calibrate = model.calibrate
        if isinstance(model, SupportsBfloat16):
            self.store_in_bfloat16 = model.store_in_bfloat16

    # The contract

    def start(self, first_frame: Tensor, seed: Tensor) -> State:
        """Start with an empty chunk."""
        check_first_frame(self.spec, first_frame, seed)
        return self._without_chunk(self.model.start(first_frame, seed))

    def observe(self, state: State, actions: Tensor, frames: Tensor) -> State:
        """Observe the frames played so far, then what really happened; the rest of the chunk is dropped."""
        check_actions(self.spec, actions)
        check_frames(self.spec, actions, frames)
        check_state(state, actions, _ENTRIES)
        return self._without_chunk(self.model.observe(self._present(state), actions, frames))

    def imagine(self, state: State, actions: Tensor, *, decode: bool = True) -> tuple[Imagined, State]:
        """Play frame by frame, and sample where needed. Frames are always decoded: they may have to be observed."""
        check_actions(self.spec, actions)
        check_state(state, actions, _ENTRIES)
        every = torch.arange(state.batch_size[0], device=actions.device)
        steps = []
        for action in actions.unbind(1):
            state = self._with_frames_left(state, action)
            parts = [name for name in state["imagined"].keys() if decode or name != "frames"]
            steps.append({name: state["imagined", name][every, state["played"]] for name in parts})
            state["played"] = state["played"] + 1
            state["rng_counter"] = state["rng_counter"] + 1
        imagined = {name: torch.stack([step[name] for step in steps], dim=1) for name in steps[0]}
        return Imagined(imagined.pop("frames", None), **imagined), state

    def stages(self) -> Sequence[Stage]:
        """The model's own."""
        return self.model.stages()

    def state_bounds(self) -> StateBounds:
        """The model's own, and those of a chunk that is being played."""
        layout, own = self.spec.action_layout, {**STREAM_BOUNDS, **self.model.state_bounds()}
        return {
            **{(part, *path): bounds for part in ("before", "after") for path, bounds in own.items()},
            ("action",): (layout.low, layout.high),
            ("played",): (0, self.chunk),
        }

    # Capabilities that read the state: of the present frame, which costs an observation inside a chunk

    def _embed(self, state: State) -> Tensor:
        assert isinstance(self.model, SupportsEmbed)
        return self.model.embed(self._present(state))

    def _prompted(self, state: State, prompt: Tensor) -> State:
        """Under another prompt the rest of the chunk is dropped."""
        assert isinstance(self.model, SupportsPrompt)
        return self._without_chunk(self.model.prompt(self._present(state), prompt))

    # Pieces

    def _with_frames_left(self, state: State, action: Tensor) -> State:
        """Return the state, its entries free to be replaced, with a chunk under action (b, *a) to play in every row."""
        rows = state.batch_size[0]
        kept = (state["action"] == action).reshape(rows, -1).all(dim=1) & (state["played"] < self.chunk)
        for name in ("rng_key", "temperature"):
            kept &= state[name] == state["before", name]
        # How many frames a row that needs a chunk has played, at least 1; -1 elsewhere. The only wait for the device.
        played = torch.where(kept, -1, state["played"]).cpu().numpy()
        due = np.flatnonzero(played >= 0)
        if not len(due):
            return state.copy()
        where = torch.from_numpy(due).to(action.device)
        before = self._after_played(state, due, played[due])
        imagined, after = self.model.imagine(before, repeat(action[where], "b ... -> b n ...", n=self.chunk))
        fresh = TensorDict(
            {
                "before": before,
                "after": after,
                "imagined": _parts_of(imagined),
                "action": action[where],
                "played": torch.zeros_like(where),
                **{name: state[name][where] for name in _STREAM},
            },
            batch_size=[len(due)],
        )
        if len(due) == rows:
            return fresh.clone()  # no two entries may share memory, or writing a row of one would write another
        state = state.clone()
        state[where] = fresh
        return state

    def _present(self, state: State) -> State:
        """Return the model's own state as of the frame played last, in every row."""
        return self._after_played(state, np.arange(state.batch_size[0]), state["played"].cpu().numpy())

    def _after_played(self, state: State, rows: Rows, played: Rows) -> State:
        """Return the model's own state in these rows (n,), after as many frames of the chunk as they have played."""
        device, counts, parts = state["played"].device, np.unique(played), []
        groups = [np.flatnonzero(played == count) for count in counts]
        for count, group in zip(counts.tolist(), groups, strict=True):
            where = torch.from_numpy(rows[group]).to(device)
            if count == self.chunk:
                parts.append(state["after"][where])
                continue
            part = state["before"][where]
            part.update(state.select("rng_key", "temperature")[where])
            actions = repeat(state["action"][where], "b ... -> b n ...", n=count)
            parts.append(self.model.observe(part, actions, state["imagined", "frames"][where, :count]))
        joined: State = torch.cat(parts)[torch.from_numpy(np.argsort(np.concatenate(groups))).to(device)]
        return joined.update(state.select(*_STREAM)[torch.from_numpy(rows).to(device)])

    def _without_chunk(self, own: State) -> State:
        """Return a state that goes on from the model's own: as if a chunk had been played to its end."""
        rows, device, layout = own.batch_size[0], own["rng_key"].device, self.spec.action_layout
        idle = torch.as_tensor(np.clip(np.zeros(layout.shape, layout.dtype), layout.low, layout.high), device=device)
        if self._parts is None:  # rows at any point of a chunk share one state: all entries are there from the first
            with torch.no_grad():
                tried, _ = self.model.imagine(own[:1], repeat(idle, "... -> b n ...", b=1, n=self.chunk))
            self._parts = tuple(_parts_of(tried).keys())
        shapes = {"frames": self.spec.frame_shape}
        empty = {name: torch.zeros((rows, self.chunk, *shapes.get(name, ())), device=device) for name in self._parts}
        return TensorDict(
            {
                "before": own,
                "after": own,
                "imagined": TensorDict(empty, batch_size=[rows]),
                "action": idle.expand(rows, *layout.shape),
                "played": torch.full((rows,), self.chunk, device=device),
                **{name: own[name] for name in _STREAM},
            },
            batch_size=[rows],
        ).clone()


def _parts_of(imagined: Imagined) -> State:
    parts = {field.name: getattr(imagined, field.name) for field in dataclasses.fields(imagined)}
    given = {name: part for name, part in parts.items() if part is not None}
    return TensorDict(given, batch_size=imagined.rewards.shape[:1])
