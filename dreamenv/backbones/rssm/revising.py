"""An RSSM that looks back: later frames revise the remembered latents of steps whose frame was not seen.

Its state also holds the last steps (`dreamenv.backbones.rssm.history`). A step that was imagined counts as one whose
frame was not seen. A revision takes frames in, infers the latents of unseen steps anew from the frames after them
(`dreamenv.backbones.rssm.revision`) and runs the memory forward again, from the anchor before the oldest step, which
stays as it was. Latents that were seen stay, and those that are drawn again take the random numbers of their own step:
revising twice is revising once, and without later frames nothing changes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamenv.backbones.rssm.history import empty_history, pushed
from dreamenv.backbones.rssm.model import RSSM, RSSMConfig
from dreamenv.backbones.rssm.revision import BackwardConfig, Evidence, Revision
from dreamenv.backbones.rssm.revision_loss import RevisionLoss
from dreamenv.backbones.rssm.stream import RowStreams, updated_state
from dreamenv.capabilities import check_revision
from dreamenv.errors import ConfigError
from dreamenv.nn.recurrence import MOST_HIDDEN
from dreamenv.tensordicts import TensorDict
from dreamenv.world_model import Stage, State, StateBounds, WorldModelSpec, check_state

__all__ = ["RevisingRSSM", "RevisingRSSMConfig"]

_LEAST = 1e-30  # of a probability whose logarithm is taken


@dataclass(frozen=True, kw_only=True)
class RevisingRSSMConfig(RSSMConfig, kind="revising_rssm"):
    """Settings of an RSSM that looks back.

    Attributes:
        revision: how.

    Raises:
        ConfigError: a prompt: what a prompt was taken for is not among what is remembered of past steps.
    """

    revision: Revision = BackwardConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompt is not None:
            raise ConfigError("an RSSM that looks back takes no prompts; leave prompt out, or take 'rssm'.")

    def build(self, spec: WorldModelSpec) -> RevisingRSSM:
        """See `BackboneConfig`."""
        return RevisingRSSM(self, spec)

    @classmethod
    def of(cls, config: RSSMConfig, revision: Revision) -> RevisingRSSMConfig:
        """Return the settings of an RSSM with a revision, whose weights it can load if the revision has none."""
        settings = {field.name: getattr(config, field.name) for field in dataclasses.fields(RSSMConfig)}
        return cls(**settings, revision=revision)


class RevisingRSSM(RSSM):
    """The model; see `RSSM` and `dreamenv.capabilities.SupportsRevise`.

    Args:
        config: its settings.
        spec: what it shows and accepts.
    """

    memory = (*RSSM.memory, "history")

    config: RevisingRSSMConfig

    def __init__(self, config: RevisingRSSMConfig, spec: WorldModelSpec) -> None:
        super().__init__(config, spec)
        self.revision_steps = config.revision.steps
        self.smoother = config.revision.build(self.dynamics, self.action.size)

    def start(self, first_frame: Tensor, seed: Tensor) -> State:
        """Remember the latent of the first frame, and no step."""
        state = super().start(first_frame, seed)
        layout = self.spec.action_layout
        action = torch.as_tensor(layout.low).clamp_min(0).minimum(torch.as_tensor(layout.high))  # any that is one
        state["history"] = empty_history(state, self.revision_steps, self.config.classes, action)
        return state

    def revise(self, state: State, frames: Tensor, mask: Tensor) -> State:
        """See `SupportsRevise`: seen latents stay, unseen ones are drawn anew given the frames after them."""
        check_state(state, frames, self.memory)
        check_revision(self, state["history"]["age"], frames, mask)
        if not bool(mask.any()):
            return state
        history, steps = state["history"], self.revision_steps
        fresh = mask.new_zeros(len(mask), steps)
        fresh[:, steps - mask.shape[1] :] = mask
        given = self.autoencoder.encode(frames.flatten(0, 1)).exp().unflatten(0, frames.shape[:2])
        probs = history["probs"].clone()
        probs[:, steps - mask.shape[1] :] = torch.where(mask[..., None, None], given, probs[:, -mask.shape[1] :])
        seen = history["seen"] | fresh
        path, latents = self._rerun(state, probs, seen, fresh)

        rows = mask.any(dim=1)
        before = zip(("deter", "stoch"), (path[:-1], latents[:-1]), strict=True)
        after = {
            "probs": probs, "seen": seen, **{name: torch.stack(values, dim=1) for name, values in before}
        }  # fmt: skip
        kept = {name: _where(rows, value, history[name]) for name, value in after.items()}
        revised = TensorDict(
            {**kept, "action": history["action"], "age": history["age"]}, batch_size=history.batch_size
        )
        deter, stoch = (_where(rows, new[-1], state[n]) for n, new in (("deter", path), ("stoch", latents)))
        return updated_state(state, RowStreams.of(state), deter=deter, stoch=stoch, history=revised)

    def recall(self, state: State) -> Tensor:
        """Decode the remembered latents; see `SupportsRevise`."""
        history = state["history"]
        return self._decode(torch.cat((history["stoch"][:, 1:], state["stoch"][:, None]), dim=1))

    def _rerun(self, state: State, probs: Tensor, seen: Tensor, fresh: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Run the remembered steps anew; the memory and the latent before each of them, and after the last.

        Args:
            state: as it is.
            probs: (b, l, v, k) of the frames.
            seen: (b, l) bool, whose frame is known.
            fresh: (b, l) bool, whose frame has just come.
        """
        history, steps = state["history"], self.revision_steps
        first = steps - history["age"]  # b, the oldest slot of this dream
        seen = seen & (torch.arange(steps, device=seen.device) >= first[:, None])
        rows = torch.arange(len(first), device=first.device)
        anchor = first.clamp_max(steps - 1)
        deter, latent = history["deter"][rows, anchor], history["stoch"][rows, anchor]
        one_hot = torch.nn.functional.one_hot(latent, self.config.classes).float()
        evidence = Evidence(probs, seen, self.action(history["action"]), first, deter, one_hot)
        hindsight, informed = self.smoother.look_back(evidence), evidence.informed
        projected, stream = self.dynamics.project(self.action, history["action"]), RowStreams.of(state)
        drawn_before = torch.cat((history["stoch"][:, 1:], state["stoch"][:, None]), dim=1)
        path, latents = [], []
        for i in range(steps):
            begins = i <= first
            deter = _where(begins, history["deter"][:, i], deter)
            latent = _where(begins, history["stoch"][:, i], latent)
            path.append(deter)
            latents.append(latent)
            deter = self.dynamics.step(deter, latent, projected[:, i])
            prior = self.dynamics.prior(deter)
            unseen = _where(informed[:, i], self.smoother.logits(prior, deter, hindsight[:, i]), prior)
            wanted = _where(fresh[:, i], probs[:, i].clamp_min(_LEAST).log(), unseen)
            of_step = stream._replace(counter=(stream.counter - (steps - i)).clamp_min(0))
            latent = _where(seen[:, i] & ~fresh[:, i], drawn_before[:, i], of_step.draw(wanted))
        return [*path, deter], [*latents, latent]

    def _after(
        self, state: State, stream: RowStreams, actions: Tensor, path: Sequence[tuple[Tensor, Tensor]],
        posterior: Tensor | None,
    ) -> State:  # fmt: skip
        before = [(state["deter"], state["stoch"]), *path[:-1]]
        history = pushed(state["history"], actions, before, None if posterior is None else posterior.exp())
        after = super()._after(state, stream, actions, path, posterior)
        after["history"] = history
        return after

    def state_bounds(self) -> StateBounds:
        """Those of the remembered steps, too."""
        layout = self.spec.action_layout
        return {
            **super().state_bounds(),
            ("history", "age"): (0, self.revision_steps),
            ("history", "probs"): (0, 1 + 1e-4),
            ("history", "stoch"): (0, self.config.classes - 1),
            ("history", "deter"): (-MOST_HIDDEN, MOST_HIDDEN),
            ("history", "action"): (layout.low, layout.high),
        }

    def stages(self) -> Sequence[Stage]:
        """Those of the RSSM; then, if looking back is learned, it and the dynamics on recordings with gaps."""
        stages = super().stages()
        revision = self.config.revision
        if not isinstance(revision, BackwardConfig):
            return stages
        loss = RevisionLoss(revision.steps, self.losses, self.smoother)
        parameters = (*self.dynamics.parameters(), *self.head.parameters(), *self.smoother.parameters())
        return (*stages, revision.training.build("revision", parameters, loss, self.losses.posterior))


def _where(rows: Tensor, chosen: Tensor, other: Tensor) -> Tensor:
    """Return ``chosen`` in these rows (b,) bool, ``other`` elsewhere."""
    return torch.where(rows.view(-1, *[1] * (chosen.ndim - 1)), chosen, other)
