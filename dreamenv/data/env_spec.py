"""How Gymnasium makes a recorded environment again, in the form that Minari stores."""

from __future__ import annotations

import copy

import gymnasium as gym

from dreamenv.data.provenance import Provenance

__all__ = ["env_spec_json"]


def env_spec_json(provenance: Provenance) -> str | None:
    """Return the spec of a registered environment as JSON, for `minari.MinariDataset.recover_environment`.

    None if Gymnasium has no such id here, or makes it of something that has no JSON form.
    """
    found = gym.registry.get(provenance.environment_id.rpartition(":")[2])
    if found is None:
        return None
    spec = copy.deepcopy(found)
    spec.kwargs = {**spec.kwargs, **provenance.environment_kwargs}
    try:
        return spec.to_json()
    except (TypeError, ValueError):  # made by a function
        return None
