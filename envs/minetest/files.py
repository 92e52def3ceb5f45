"""Write the folder of an engine (settings, mods, generated textures), and give the commands that start it."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dreamenv.envs.minetest.programs import find_program, lua_socket
from dreamenv.envs.minetest.screen import STRIP

__all__ = ["engine_command", "write_folder", "xvfb_command"]

_MODS = Path(__file__).parent / "mod"

_WALLS = ((60, 95, 168), (168, 80, 60), (60, 140, 80), (200, 180, 60))

_SETTINGS = {
    # The client: small, fast, and nothing that moves by itself.
    "fullscreen": "false",
    "video_driver": "opengl",
    "fps_max": "600",
    "fps_max_unfocused": "600",
    "vsync": "false",
    "enable_sound": "false",
    "show_debug": "false",
    "node_highlighting": "none",
    "enable_clouds": "false",
    "enable_particles": "false",
    "smooth_lighting": "false",
    "enable_shaders": "false",
    "leaves_style": "opaque",
    "mip_map": "true",
    "view_bobbing_amount": "0",
    "fall_bobbing_amount": "0",
    "cinematic": "false",
    "viewing_range": "40",
    "fov": "72",
    "gui_scaling": "0.5",
    "arm_inertia": "false",
    "free_move": "true",
    "noclip": "true",
    "fast_move": "false",
    "pause_on_lost_focus": "false",
    "client_mapblock_limit": "3000",
    "client_unload_unused_data_timeout": "100000",
    "enable_client_modding": "true",
    "enable_local_map_saving": "false",
    # The server: it sends only what our mod sends, and unloads nothing by itself.
    "enable_mod_channels": "true",
    "csm_restriction_flags": "0",
    "secure.trusted_mods": "dreamenv",
    "bind_address": "127.0.0.1",
    "server_announce": "false",
    "show_statusline_on_connect": "false",
    "disable_anticheat": "true",
    "enable_damage": "false",
    "creative_mode": "false",
    "default_privs": "interact, fly, noclip, shout",
    "give_initial_stuff": "false",
    "dedicated_server_step": "0.002",
    "time_speed": "0",
    "world_start_time": "12000",
    "static_spawnpoint": "0,160,0",
    "max_block_send_distance": "-1",  # with 0 the camera's block: the mod cannot send such a block again
    "block_send_optimize_distance": "1",
    "max_block_generate_distance": "1",
    "active_block_range": "1",
    "active_object_send_range_blocks": "1",
    "active_block_mgmt_interval": "100000",
    "server_unload_unused_data_timeout": "100000",
    "server_map_save_interval": "100000",
    "liquid_update": "100000",
    "abm_interval": "100000",
    "nodetimer_interval": "100000",
    "num_emerge_threads": "1",
    "emergequeue_limit_total": "100000",
    "emergequeue_limit_diskonly": "100000",
    "emergequeue_limit_generate": "100000",
    "movement_gravity": "0",
    "movement_liquid_sink": "0",
    "fixed_map_seed": "20210806",
    "debug_log_level": "error",
    "chat_log_level": "none",  # or errors would be drawn into the frame
}

_MAPGEN = {
    "terrain": {
        "mg_name": "v7",
        "mg_flags": "caves, nodungeons, light, decorations, biomes",
        "mgv7_spflags": "nomountains, noridges, nofloatlands, nocaverns",
    },
    "maze": {"mg_name": "singlenode", "mg_flags": "light"},
}


def xvfb_command(folder: Path, width: int, height: int) -> list[str]:
    """Return the command of a private display, which chooses a free number itself."""
    screen = ["-screen", "0", f"{width}x{height}x24", "-fbdir", str(folder)]
    return [_program("Xvfb"), *screen, "-nolisten", "tcp", "-noreset", "+extension", "GLX"]


def engine_command(folder: Path) -> list[str]:
    """Return the command of the client with its server, on a free port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    places = ["--world", str(folder / "world"), "--config", str(folder / "minetest.conf")]
    return [_program("minetest"), "--go", *places, "--gameid", "minetest", "--name", "agent", "--port", str(port)]


def write_folder(folder: Path, script: str, size: int) -> None:
    """Write everything that an engine reads, for a Lua task and frames of ``size`` x ``size`` pixels."""
    height = size + 2 * STRIP
    kind = "maze" if script == "maze" else "terrain"
    settings = {
        **_SETTINGS,
        **_MAPGEN[kind],
        "screen_w": str(size),
        "screen_h": str(height),
        "dreamenv_task": script,
        "dreamenv_socket": str(folder / "link"),
        "dreamenv_cpath": f"{lua_socket()}/?.so",
        "dreamenv_strip": f"{100 * (STRIP + 0.5) / height:.4f}",
    }
    conf = "".join(f"{name} = {value}\n" for name, value in settings.items())
    (folder / "minetest.conf").write_text(conf)
    world = folder / "world"
    shutil.copytree(_MODS / "server", world / "worldmods" / "dreamenv")
    client_mods = folder / ".minetest" / "clientmods"  # of its HOME
    shutil.copytree(_MODS / "client", client_mods / "dreamenv_client")
    (client_mods / "mods.conf").write_text("load_mod_dreamenv_client = true\n")
    backends = "backend = dummy\nplayer_backend = dummy\nauth_backend = files\nmod_storage_backend = files\n"
    (world / "world.mt").write_text(f"gameid = minetest\nload_mod_dreamenv = true\n{backends}")
    _draw_textures(world / "worldmods" / "dreamenv" / "textures")


def _program(name: str) -> str:
    path = find_program(name)
    assert path is not None, f"{name} was found when the environment was made"
    return path


def _draw_textures(folder: Path) -> None:
    folder.mkdir()
    Image.new("RGB", (1, 1), (255, 255, 255)).save(folder / "dreamenv_white.png")
    checks = (np.indices((16, 16)) // 8).sum(0) % 2  # a texture that shows the distance of a wall
    for number, colour in enumerate(_WALLS, 1):
        _draw(folder / f"dreamenv_wall{number}.png", checks, colour, 0.75)
    _draw(folder / "dreamenv_floor.png", checks, (150, 140, 120), 0.85)


def _draw(path: Path, checks: NDArray[np.int64], colour: tuple[int, int, int], shade: float) -> None:
    light = np.where(checks[..., None], np.array(colour), shade * np.array(colour))
    Image.fromarray(light.astype(np.uint8)).save(path)
