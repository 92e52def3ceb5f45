"""Make a task from any ViZDoom configuration file: its buttons become a table of actions."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import vizdoom

from dreamenv.envs.vizdoom.tasks import VIZDOOM_TASKS, VizdoomTask
from dreamenv.errors import ConfigError, UnknownNameError

__all__ = ["action_table", "check_files", "find_config", "read_config"]

_NAMES = {"MOVE_FORWARD": "forward", "MOVE_BACKWARD": "backward"}
_SIDEWAYS = ("TURN_LEFT", "TURN_RIGHT", "MOVE_LEFT", "MOVE_RIGHT")
_PAIRS = (
    *(("MOVE_FORWARD", button) for button in _SIDEWAYS),
    *(("ATTACK", button) for button in (*_SIDEWAYS, "MOVE_FORWARD", "MOVE_BACKWARD")),
)
"""Buttons that are worth pressing at once; an action is named after both, in this order."""

_DELTA = 5
"""Value of a delta button (``..._DELTA``) per tic: degrees of a turn, map units of a step."""


def find_config(config: str | Path) -> Path:
    """Return the path of a configuration file, given its path or the name of one of ViZDoom's own, such as "basic".

    Raises:
        ConfigError: there is no such file.
        UnknownNameError: ViZDoom has no scenario of that name; the message suggests similar names.
    """
    path = Path(config).expanduser()
    if path.is_file():
        return path.resolve()
    own = Path(vizdoom.scenarios_path)
    if path.name == str(config) and not path.suffix:
        if (own / f"{config}.cfg").is_file():
            return own / f"{config}.cfg"
        raise UnknownNameError("ViZDoom scenario", str(config), [file.stem for file in own.glob("*.cfg")])
    raise ConfigError(
        f"there is no ViZDoom configuration file {path.absolute()}. Give the path of a .cfg file, or a name such as "
        "'basic'."
    )


def read_config(config: str | Path, solved: float | None = None) -> VizdoomTask:
    """Make the task of a configuration file.

    Args:
        config: a path or the name of one of ViZDoom's own scenarios.
        solved: the return from which an episode is a success; None for never.

    Raises:
        ConfigError, UnknownNameError: no such file, it cannot be read, names no button, or its map is not there.
    """
    path = find_config(config)
    game = vizdoom.DoomGame()
    # ViZDoom prints the lines that it does not understand, and returns False if there were any.
    if not game.load_config(str(path)):
        raise ConfigError(f"{path} has lines that ViZDoom does not understand, see its warnings. Correct the file.")
    buttons = tuple(button.name for button in game.get_available_buttons())
    if not buttons:
        raise ConfigError(
            f"{path} names no buttons. Add a line such as: available_buttons = {{ MOVE_FORWARD TURN_LEFT }}"
        )
    check_files(game, path)
    names, table = action_table(buttons)
    template = VIZDOOM_TASKS["vizdoom"]
    return replace(
        template,
        scenario=str(path),
        buttons=buttons,
        action_names=names,
        action_table=table,
        max_native_steps=game.get_episode_timeout() or template.max_native_steps,
        solved=math.inf if solved is None else solved,
    )


def check_files(game: vizdoom.DoomGame, config: Path) -> None:
    """Check that the WAD files of a configuration exist and have its map, without which the engine hangs.

    Also corrects their paths: ViZDoom puts the configuration's folder before a path that is absolute already.

    Raises:
        ConfigError: a file or the map is missing.
    """
    files = [_find_wad(game.get_doom_game_path() or "freedoom2.wad", config)]
    if game.get_doom_scenario_path():
        files.append(_find_wad(game.get_doom_scenario_path(), config))
        game.set_doom_scenario_path(str(files[-1]))
    game.set_doom_game_path(str(files[0]))
    lumps = [_lumps(file) for file in files]
    name = game.get_doom_map()
    if None not in lumps and not any(name.lower() in found for found in lumps if found is not None):
        known = sorted(lump for lump in lumps[-1] or () if re.fullmatch(r"map\d\d|e\dm\d", lump))
        raise ConfigError(
            f"{config} plays the map {name}, which {' and '.join(str(file) for file in files)} do not have. Add a line "
            f"such as: doom_map = {known[0] if known else 'map01'}"
        )


def action_table(buttons: Sequence[str]) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]:
    """Return action names and native actions: the no-op, each button alone, and useful pairs.

    A delta button (``TURN_LEFT_RIGHT_DELTA``) gives two actions, "..._minus" and "..._plus".
    """
    rows = [("noop", (0,) * len(buttons)), *_rows(list(buttons))]
    return tuple(name for name, _ in rows), tuple(row for _, row in rows)


def _find_wad(file: str, config: Path) -> Path:
    folder = str(config.parent)
    for path in (
        Path(file),
        Path(file.removeprefix(folder)),  # absolute in the configuration file
        Path(vizdoom.__file__).parent / Path(file).name,  # the games that ViZDoom ships, where the engine looks as well
    ):
        if path.is_file() and path.is_absolute():
            return path
    raise ConfigError(f"{config} needs the file {file}, which is not there.")


def _lumps(wad: Path) -> set[str] | None:
    """Return the names in a WAD file's directory, in lower case; None for a file of another kind."""
    content = wad.read_bytes()
    if len(content) < 12 or content[:4] not in (b"IWAD", b"PWAD"):
        return None
    count, start = struct.unpack_from("<ii", content, 4)
    entries = content[start : start + 16 * count]
    return {
        name.rstrip(b"\0").decode("ascii", "replace").lower()
        for _, _, name in struct.iter_unpack("<ii8s", entries[: len(entries) // 16 * 16])
    }


def _rows(buttons: list[str]) -> Iterator[tuple[str, tuple[int, ...]]]:
    def pressed(**values: int) -> tuple[int, ...]:
        return tuple(values.get(button, 0) for button in buttons)

    for button in buttons:
        if button.endswith("_DELTA"):
            yield f"{button.lower()}_minus", pressed(**{button: -_DELTA})
            yield f"{button.lower()}_plus", pressed(**{button: _DELTA})
        else:
            yield _name(button), pressed(**{button: 1})
    for first, second in _PAIRS:
        if first in buttons and second in buttons:
            yield f"{_name(first)}_{_name(second)}", pressed(**{first: 1, second: 1})


def _name(button: str) -> str:
    return _NAMES.get(button, button.lower())
