"""Write the model card of a world: README.md, in the format of the Hugging Face Hub."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from typing import Any

from dreamenv.metrics.summary import HOW_TO_READ, summary_table

__all__ = ["make_model_card"]


def make_model_card(name: str, description: Mapping[str, Any]) -> str:
    """Return the model card of the world that world.json describes."""
    provenance = description.get("provenance") or {}
    spec, backbone = description["spec"], dict(description["backbone"])
    kind = backbone.pop("kind")
    channels, height, width = spec["frame_shape"]
    environment = _text(provenance.get("environment_id", "an unnamed environment"))
    facts = {
        "Environment": _code(provenance.get("environment_id", "an unnamed environment"), quoted=False),
        "Frames": f"{height} x {width}, {channels} channels, {spec['frame_rate']:g} per second",
        "Actions": ", ".join(_code(action, quoted=False) for action in provenance.get("action_names") or ())
        or _code(spec["action_space"]),
        "Action table": _code(provenance["action_table"]) if provenance.get("action_table") else "",
        "Frame skip": _text(provenance.get("frame_skip", "")),
        "Resize": _text(provenance.get("resize", "")),
        "Time limit": f"{provenance['max_episode_steps']} steps" if provenance.get("max_episode_steps") else "",
        "Score": _text(provenance.get("score", "")),
        "Backbone": _code(kind, quoted=False),
        "Starts": f"{description['starts']} real segments to dream from" if "starts" in description else "",
        "Content hash": f"`{description['content_hash']}`" if "content_hash" in description else "",
    }
    rows = "\n".join(f"| {key} | {value} |" for key, value in facts.items() if value != "")
    sections = [
        "---\nlibrary_name: dreamenv\ntags:\n- dreamenv\n- world-model\n- reinforcement-learning\n"
        f"- {json.dumps(str(kind))}\n---",
        f"# {_text(name)}",
        f"A learned world that imitates {environment}: an environment whose `step` returns imagined frames.",
        "```python\nimport gymnasium as gym\n\n"
        f'env = gym.make("dreamenv:dreamenv/Dream-v0", world={json.dumps(name)})\n```',
        f"| | |\n|---|---|\n{rows}",
        _measures(description.get("metrics") or {}),
        _section("Settings of the backbone", backbone),
        _section("How it was trained", description.get("record") or {}),
        _section("All measurements on held-out episodes", description.get("metrics") or {}),
        "## Limits\n\nIt knows only what its recordings show. Dreams drift from reality as they get longer, and a "
        "policy trained in them may learn to exploit their mistakes: evaluate it in the real environment.",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _measures(metrics: Mapping[str, Any]) -> str:
    header, rows = summary_table(metrics)
    if not rows:
        return ""
    lines = [header, tuple("---" for _ in header), *rows]
    table = "\n".join(f"| {' | '.join(_text(cell) for cell in line)} |" for line in lines)
    return f"## How good its dreams are\n\n{HOW_TO_READ}\n\n{table}"


def _section(title: str, values: Mapping[str, Any]) -> str:
    if not values:
        return ""
    written = json.dumps(values, indent=1, sort_keys=True)
    fence = _longer_than_in("`", written, at_least=3)
    return f"## {title}\n\n{fence}json\n{written}\n{fence}"


def _code(value: Any, *, quoted: bool = True) -> str:
    """Return a value as code in one cell of a table, whatever it holds."""
    text = " ".join((json.dumps(value) if quoted else str(value)).split()).replace("|", "\\|")
    text = text if len(text) <= 400 else text[:400] + " ..."
    fence = _longer_than_in("`", text, at_least=1)
    space = " " if "`" in text else ""
    return f"{fence}{space}{text}{space}{fence}"


def _text(value: Any) -> str:
    """Return a value as plain text in one line, without markup."""
    line = html.escape(" ".join(str(value).split()), quote=False)
    return re.sub(r"([\\`*\[\]|~#])", r"\\\1", line)


def _longer_than_in(character: str, text: str, *, at_least: int) -> str:
    """Return a run of a character that is longer than any in the text, so that it can enclose it."""
    runs = [len(run) + 1 for run in re.findall(f"{re.escape(character)}+", text)]
    return character * max([at_least, *runs])
