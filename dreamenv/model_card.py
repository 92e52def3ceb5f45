"""Write the model card of a world: README.md, in the format of the Hugging Face Hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["make_model_card"]


def make_model_card(name: str, description: Mapping[str, Any]) -> str:
    """Return the model card of the world that world.json describes."""
    provenance = description.get("provenance") or {}
    spec, backbone = description["spec"], dict(description["backbone"])
    kind = backbone.pop("kind")
    channels, height, width = spec["frame_shape"]
    environment = provenance.get("environment_id", "an unnamed environment")
    facts = {
        "Environment": f"`{environment}`",
        "Frames": f"{height} x {width}, {channels} channels, {spec['frame_rate']:g} per second",
        "Actions": ", ".join(f"`{action}`" for action in provenance.get("action_names") or ())
        or _code(spec["action_space"]),
        "Action table": _code(provenance["action_table"]) if provenance.get("action_table") else "",
        "Frame skip": provenance.get("frame_skip", ""),
        "Resize": provenance.get("resize", ""),
        "Time limit": f"{provenance['max_episode_steps']} steps" if provenance.get("max_episode_steps") else "",
        "Score": provenance.get("score", ""),
        "Backbone": f"`{kind}`",
        "Starts": f"{description['starts']} real segments to dream from" if "starts" in description else "",
        "Content hash": f"`{description['content_hash']}`" if "content_hash" in description else "",
    }
    rows = "\n".join(f"| {key} | {value} |" for key, value in facts.items() if value != "")
    sections = [
        f"---\nlibrary_name: dreamenv\ntags:\n- dreamenv\n- world-model\n- reinforcement-learning\n- {kind}\n---",
        f"# {name}",
        f"A learned world that imitates {environment}: an environment whose `step` returns imagined frames.",
        f'```python\nimport gymnasium as gym\n\nenv = gym.make("dreamenv:dreamenv/Dream-v0", world="{name}")\n```',
        f"| | |\n|---|---|\n{rows}",
        _section("Settings of the backbone", backbone),
        _section("How it was trained", description.get("record") or {}),
        _section("Measured on held-out episodes", description.get("metrics") or {}),
        "## Limits\n\nIt knows only what its recordings show. Dreams drift from reality as they get longer, and a "
        "policy trained in them may learn to exploit their mistakes: evaluate it in the real environment.",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _section(title: str, values: Mapping[str, Any]) -> str:
    if not values:
        return ""
    return f"## {title}\n\n```json\n{json.dumps(values, indent=1, sort_keys=True)}\n```"


def _code(value: Any) -> str:
    text = json.dumps(value).replace("|", "\\|")
    return f"`{text if len(text) <= 400 else text[:400] + ' ...'}`"
