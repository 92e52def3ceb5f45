"""The actions do what their names say, looked up in the pictures."""

from __future__ import annotations

import numpy as np
import pytest
from navigation import action, growth, here, make, shift_to_the_right

TILE = 64 / 7  # pixels of a MiniGrid cell in a frame of 64
UNIT = 7  # pixels of a Crafter cell in a frame of 64
ROOMS = ("miniworld_hallway", "miniworld_tmaze", "miniworld_four_rooms", "miniworld_maze_s3")
DOOM = ("my_way_home", "health_gathering")


def after(env, name, times=1, seeds=range(9)):
    """Begin episodes; yield the frame and info before and after an action was taken so many times."""
    for seed in seeds:
        before, info_before = env.reset(seed=seed)
        frame, info = before, info_before
        for _ in range(times):
            frame, _, _, _, info = env.step(action(env, name))
        yield before, info_before, frame, info


@pytest.mark.parametrize("name", here(*ROOMS, *DOOM))
def test_a_turn_to_the_left_moves_the_image_to_the_right_and_vice_versa(name):
    env = make(name)
    turned = {
        side: np.median([shift_to_the_right(before, frame) for before, _, frame, _ in after(env, f"turn_{side}")])
        for side in ("left", "right")
    }
    # MiniWorld turns by 15 degrees of the 75 that 64 pixels show; Doom begins a turn slowly.
    low, high = (10, 14) if name in ROOMS else (3, 7)
    assert low <= turned["left"] <= high
    assert -high <= turned["right"] <= -low
    env.close()


@pytest.mark.parametrize("name", here(*ROOMS, "miniworld_one_room"))
def test_a_turn_to_the_left_and_one_to_the_right_bring_the_picture_back(name):
    env = make(name)
    before, info_before = env.reset(seed=1)
    _, _, _, _, left = env.step(action(env, "turn_left"))
    back, _, _, _, right = env.step(action(env, "turn_right"))
    assert (left["direction"] - info_before["direction"]) % 360 == pytest.approx(15)
    assert right["direction"] == pytest.approx(info_before["direction"])
    assert np.abs(back.astype(int) - before).max() <= 2
    env.close()


@pytest.mark.parametrize(
    "name", here("miniworld_hallway", "miniworld_tmaze", "miniworld_four_rooms", "health_gathering")
)
def test_a_step_forward_enlarges_objects_ahead(name):
    env = make(name)
    steps = 5 if name.startswith("miniworld") else 3
    grown = [growth(before, frame) for before, _, frame, _ in after(env, "forward", steps)]
    assert np.median(grown) > 1
    env.close()


@pytest.mark.parametrize("name", here(*ROOMS, "miniworld_one_room"))
def test_a_step_forward_in_miniworld_is_15_centimetres_the_way_it_looks(name):
    env = make(name)
    walked = 0
    for _, info_before, _, info in after(env, "forward"):
        moved = np.subtract(info["position"], info_before["position"])
        angle = np.radians(info_before["direction"])
        if moved.any():  # else there is a wall
            np.testing.assert_allclose(moved, 0.15 * np.array([np.cos(angle), -np.sin(angle)]), atol=1e-9)
            walked += 1
    assert walked >= 3
    env.close()


@pytest.mark.parametrize("name", here("my_way_home"))
def test_turning_and_walking_at_once_does_both_in_doom(name):
    env = make(name)
    for side, sign in (("left", 1), ("right", -1)):
        turned = [shift_to_the_right(before, frame) for before, _, frame, _ in after(env, f"forward_{side}")]
        assert np.median(turned) * sign >= 3
    env.close()


@pytest.mark.parametrize("name", here("take_cover"))
def test_a_step_to_the_left_moves_the_image_to_the_right_in_take_cover(name):
    env = make(name)
    for side, sign in (("left", 1), ("right", -1)):
        # Near walls run past, those straight ahead are far away: look at the one that the step leads away from.
        moved = [shift_to_the_right(before, frame) for before, _, frame, _ in after(env, side, 12)]
        assert np.median(moved) * sign > 0
    env.close()


@pytest.mark.parametrize("name", here(*ROOMS, "miniworld_one_room", "minigrid_four_rooms", "minigrid_door_key"))
def test_the_noop_changes_nothing_but_the_time(name):
    env = make(name)
    for before, info_before, frame, info in after(env, "noop", 3):
        np.testing.assert_array_equal(before, frame)
        assert (info["position"], info["direction"]) == (info_before["position"], info_before["direction"])
    env.close()


def cell(frame, column, row):
    """The inner pixels of a cell of MiniGrid's view."""
    inner = [slice(int(np.ceil(at * TILE)) + 2, int((at + 1) * TILE) - 2) for at in (row, column)]
    return frame[inner[0], inner[1]].astype(float)


def same(one, other):
    """Whether two cells show the same, up to how the shrinking fell on pixels."""
    return np.abs(one.mean((0, 1)) - other.mean((0, 1))).max() < 8


def seen(*cells):
    """Whether no cell is black, which those are that walls hide."""
    return all(one.max() > 0 for one in cells)


@pytest.mark.parametrize("name", here("minigrid_four_rooms"))
def test_minigrid_turns_the_view_so_that_the_agent_looks_upwards(name):
    """The agent stands in column 3 of the lowest row, 6; the cell next to it is ahead of it after a turn."""
    env = make(name)
    told_apart = 0
    for seed in range(30):
        before = env.reset(seed=seed)[0]
        left = env.step(action(env, "turn_left"))[0]
        env.reset(seed=seed)
        right = env.step(action(env, "turn_right"))[0]
        for steps in (1, 2, 3):
            on_the_left, on_the_right = cell(before, 3 - steps, 6), cell(before, 3 + steps, 6)
            for adjacent, ahead in ((on_the_left, cell(left, 3, 6 - steps)), (on_the_right, cell(right, 3, 6 - steps))):
                assert same(adjacent, ahead) or not seen(adjacent, ahead)
            told_apart += seen(on_the_left, on_the_right) and not same(on_the_left, on_the_right)
    assert told_apart >= 10
    env.close()


@pytest.mark.parametrize("name", here("minigrid_four_rooms"))
def test_a_step_forward_in_minigrid_brings_everything_ahead_a_cell_nearer(name):
    env = make(name)
    told_apart = 0
    for before, info_before, frame, info in after(env, "forward", seeds=range(30)):
        if info["position"] == info_before["position"]:
            continue  # a wall
        east, south = ((1, 0), (0, 1), (-1, 0), (0, -1))[info_before["direction"]]
        assert info["position"] == [info_before["position"][0] + east, info_before["position"][1] + south]
        for row in range(5):
            far, near = cell(before, 3, row), cell(frame, 3, row + 1)
            assert same(far, near) or not seen(far, near)
            told_apart += seen(far, cell(before, 3, row + 1)) and not same(far, cell(before, 3, row + 1))
    assert told_apart >= 10
    env.close()


def stand_before(env, kind):
    """Put MiniGrid's agent next to the first thing of a kind, looking at it."""
    world = env.unwrapped._simulator
    for column in range(world.width):
        for row in range(world.height):
            thing = world.grid.get(column, row)
            if thing is not None and thing.type == kind:
                for direction, (east, south) in enumerate(((1, 0), (0, 1), (-1, 0), (0, -1))):
                    place = (column - east, row - south)
                    if world.grid.get(*place) is None:
                        world.agent_pos, world.agent_dir = place, direction
                        return thing
    raise AssertionError(f"no {kind} can be reached")


@pytest.mark.parametrize("name", here("minigrid_multi_room"))
def test_toggle_opens_a_door_and_the_way_through_it(name):
    env = make(name)
    env.reset(seed=0)
    door = stand_before(env, "door")
    closed, _, _, _, info_before = env.step(action(env, "noop"))
    assert env.step(action(env, "forward"))[4]["position"] == info_before["position"]
    opened = env.step(action(env, "toggle"))[0]
    assert door.is_open
    assert not same(cell(closed, 3, 4), cell(opened, 3, 4)) or not same(cell(closed, 3, 5), cell(opened, 3, 5))
    assert env.step(action(env, "forward"))[4]["position"] != info_before["position"]
    env.close()


@pytest.mark.parametrize("name", here("minigrid_door_key"))
def test_pickup_takes_the_key_that_unlocks_the_door(name):
    env = make(name)
    env.reset(seed=0)
    door = stand_before(env, "door")
    env.step(action(env, "toggle"))
    assert not door.is_open
    stand_before(env, "key")
    before = env.step(action(env, "noop"))[0]
    taken = env.step(action(env, "pickup"))[0]
    assert not same(cell(before, 3, 5), cell(taken, 3, 5))  # it is gone from the floor
    assert not np.array_equal(cell(before, 3, 6), cell(taken, 3, 6))  # and seen in the agent's own cell
    stand_before(env, "door")
    env.step(action(env, "toggle"))
    assert door.is_open
    env.close()


@pytest.mark.parametrize("name", here("minigrid_four_rooms", "minigrid_multi_room", "minigrid_door_key"))
def test_the_goal_of_minigrid_pays_and_ends_the_episode(name):
    env = make(name)
    env.reset(seed=0)
    stand_before(env, "goal")
    env.step(action(env, "noop"))
    _, reward, terminated, truncated, info = env.step(action(env, "forward"))
    assert reward == pytest.approx(1 - 0.9 * 2 / env.unwrapped.task.max_native_steps)
    assert (terminated, truncated, info["score"], info["success"]) == (True, False, 1.0, True)
    env.close()


@pytest.mark.parametrize("name", here(*ROOMS, "miniworld_one_room"))
def test_the_box_of_miniworld_pays_and_ends_the_episode(name):
    env = make(name, frame_skip=4)
    env.reset(seed=0)
    env.step(action(env, "noop"))
    world = env.unwrapped._simulator
    world.agent.pos = world.box.pos + np.array([0.9, 0, 0])
    _, reward, terminated, truncated, info = env.step(action(env, "noop"))
    assert reward == pytest.approx(1 - 0.2 * 5 / env.unwrapped.task.max_native_steps)
    assert (terminated, truncated, info["score"], info["success"]) == (True, False, 1.0, True)
    env.close()


@pytest.mark.parametrize("name", here("crafter"))
def test_crafters_map_scrolls_against_the_way_the_player_walks(name):
    env = make(name)
    ways = {"move_left": (1, 0), "move_right": (-1, 0), "move_up": (0, 1), "move_down": (0, -1)}
    cells = np.arange(7 * UNIT) // UNIT, np.arange(9 * UNIT) // UNIT  # below these rows is what the player has
    around = (cells[0][:, None] >= 1) & (cells[0][:, None] <= 5) & (cells[1] >= 1) & (cells[1] <= 7)
    around &= (abs(cells[0][:, None] - 3) > 1) | (abs(cells[1] - 4) > 1)  # what is near the player hides under it

    def difference(before, frame, way):
        """Which share of the ground is unlike the old picture, moved by a cell."""
        moved = np.roll(before[: 7 * UNIT, : 9 * UNIT].astype(int), (way[1] * UNIT, way[0] * UNIT), (0, 1))
        return (np.abs(moved - frame[: 7 * UNIT, : 9 * UNIT]).max(-1) > 12)[around].mean()

    clear = {way: [] for way in ways}
    for seed in (1, 2):
        frame, info = env.reset(seed=seed)
        for way in ("move_left", "move_up", "move_right", "move_down") * 3:
            for _ in range(3):
                before, info_before = frame, info
                frame, _, _, _, info = env.step(action(env, way))
                if info["position"] == info_before["position"]:
                    continue  # something is in the way
                errors = {other: difference(before, frame, moved) for other, moved in (*ways.items(), ("noop", (0, 0)))}
                best, second = sorted(errors, key=errors.get)[:2]
                if errors[second] - errors[best] > 0.02:  # else all is grass, or an animal walked, too
                    clear[way].append(best == way)
    assert all(len(right) >= 3 and np.mean(right) > 0.8 for right in clear.values()), clear
    env.close()
