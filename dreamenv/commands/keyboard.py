"""Map pressed keys to one discrete action, by the actions' names."""

from __future__ import annotations

from collections.abc import Collection, Sequence

__all__ = ["KEYS", "choose_action", "describe_keys"]

KEYS: dict[str, tuple[str, ...]] = {
    # word of an action's name: keys by pygame's names
    "left": ("left", "a"),
    "right": ("right", "d"),
    "forward": ("up", "w"),
    "backward": ("down", "s"),
    "attack": ("space",),
    "use": ("e",),
}
_SYNONYMS = {"up": "forward", "down": "backward", "back": "backward", "shoot": "attack", "fire": "attack", "do": "use"}
_OPPOSITE = ({"left", "right"}, {"forward", "backward"})
_STOP_WORDS = {"move", "turn", "noop", "step"}


def choose_action(names: Sequence[str], pressed: Collection[str]) -> int:
    """Return the action whose name has the most words whose keys are pressed, and no others.

    Args:
        names: one name per discrete action, the no-op first.
        pressed: names of the pressed keys, as pygame spells them; a digit selects the action of that number.
    """
    for key in pressed:
        if key.isdecimal() and int(key) < len(names):
            return int(key)
    wanted = {word for word, keys in KEYS.items() if any(key in pressed for key in keys)}
    for pair in _OPPOSITE:
        wanted -= pair if pair <= wanted else set()
    best, length = 0, 0
    for action, words in enumerate(map(_words, names)):
        if length < len(words) and words <= wanted:
            best, length = action, len(words)
    return best


def describe_keys(names: Sequence[str]) -> str:
    """Describe the keys of each action, one line per action."""
    lines = []
    for action, name in enumerate(names):
        words = [KEYS[word][0] for word in KEYS if word in _words(name)]
        keys = [" + ".join(words)] if words and len(words) == len(_words(name)) else []
        keys += [str(action)] if action < 10 else []
        lines.append(f"  {name:<16}{', or '.join(keys) if keys else '(no key)'}")
    return "\n".join(lines)


def _words(name: str) -> set[str]:
    words = {_SYNONYMS.get(word, word) for word in name.lower().replace("+", "_").replace(" ", "_").split("_")}
    return words - _STOP_WORDS - {""}
