"""Worlds that see finely round a gaze: the tables of patches, where they look, and what environments have for it."""

from __future__ import annotations

import dataclasses
import importlib
import json
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from einops import rearrange
from PIL import Image
from tiny_worlds import TINY_DIT, TINY_FOVEATED, presented, randomized, with_denoiser
from torch import Tensor

from dreamenv import World
from dreamenv.backbones.denoising import DenoisingConfig
from dreamenv.benchmarks import foveation
from dreamenv.data import RandomPolicy, Starts, collect
from dreamenv.denoisers.foveated_dit import FoveatedDiT, FoveatedDiTConfig
from dreamenv.denoisers.gaze import HeldGaze, MotionGaze, UncertaintyGaze
from dreamenv.dream import DreamEnv, DreamVectorEnv, GazeAction
from dreamenv.envs import make_real
from dreamenv.errors import ActionError, ConfigError, GazeError, ResetNeededError, StateError
from dreamenv.nn.fovea import Fovea
from dreamenv.nn.transformer import PatchEmbed
from dreamenv.testing import SPEC

LAYOUTS = [((3, 64, 64), 4, (4, 8)), ((4, 16, 16), 2, (4,)), ((1, 16, 32), 1, (2, 8)), ((2, 8, 8), 1, ())]


def every_cell(fovea: Fovea) -> Tensor:
    return torch.arange(fovea.cells[0] * fovea.cells[1])[None]


# The tables


@pytest.mark.parametrize("layout", LAYOUTS)
def test_whatever_the_gaze_patches_tile_the_frame_and_are_as_many(layout):
    fovea = Fovea(*layout)
    cells = every_cell(fovea)
    frames = torch.rand(1, cells.shape[1], *layout[0])
    parts = fovea.split(frames, cells)
    assert [part.shape[2] for part in parts] == fovea.counts
    assert [part.shape[3] for part in parts] == fovea.sizes
    assert torch.equal(fovea.join(parts, cells), frames)
    ones = fovea.join([torch.ones_like(part) for part in parts], cells)
    assert torch.equal(ones, torch.ones_like(ones))  # each pixel once


def test_a_fovea_of_a_quarter_and_one_of_a_sixteenth_take_as_many_tokens_as_they_say():
    assert Fovea((4, 16, 16), 2, (4,)).counts == [16, 12]
    assert Fovea((3, 64, 64), 4, (4, 8)).counts == [16, 12, 12]
    assert Fovea((3, 64, 64), 4, ()).counts == [256]


def test_tokens_within_the_fovea_are_exactly_the_uniform_fine_ones():
    fovea, frames = Fovea((3, 64, 64), 4, (4, 8)), torch.rand(1, 1, 3, 64, 64)
    every = rearrange(frames, "b f c (y p) (x q) -> (b f) (y x) (c p q)", p=4, q=4)[0]
    for gaze in torch.rand(20, 2):
        cell = fovea.cell(gaze)[None, None]
        places = fovea.foveas[cell[0, 0]].nonzero()[:, 0]
        assert torch.equal(fovea.split(frames, cell)[0][0, 0], every[places])


def test_without_a_fovea_tokens_are_those_of_a_uniform_transformer():
    torch.manual_seed(0)
    uniform, frames = PatchEmbed((3, 16, 16), 8, 4), torch.rand(2, 3, 3, 16, 16)
    none = torch.zeros(2, 3, dtype=torch.int64)
    tokens = uniform.proj(Fovea((3, 16, 16), 4, ()).split(frames, none)[0])
    torch.testing.assert_close(tokens, uniform(frames))


@pytest.mark.parametrize("layout", LAYOUTS[:3])
def test_what_is_looked_at_lies_in_the_fovea(layout):
    fovea = Fovea(*layout)
    _, h, w = layout[0]
    for gaze in [*torch.rand(50, 2), torch.zeros(2), torch.ones(2), torch.tensor([0.0, 1.0])]:
        fine = fovea.fine_pixels(gaze)
        assert bool(fine[min(int(gaze[0] * h), h - 1), min(int(gaze[1] * w), w - 1)])


def test_the_best_gaze_holds_what_there_is_and_the_middle_holds_nothing():
    fovea = Fovea((3, 64, 64), 4, (4, 8))
    maps = torch.zeros(3, 2, 64, 64)
    maps[0, 0, 50:54, 4:8], maps[1, 1, 2, 60] = 1, 1e-6
    gaze = fovea.best_gaze(maps)
    assert bool(fovea.fine_pixels(gaze[0, 0])[50:54, 4:8].all())
    assert bool(fovea.fine_pixels(gaze[1, 1])[2, 60])
    assert torch.equal(gaze[2], torch.full((2, 2), 0.5))


@pytest.mark.parametrize(
    ("sides", "told"),
    [((3,), "multiple of 2"), ((0,), "multiple of 2"), ((4, 6), "multiple of 4"), ((8, 8), "wider than"),
     ((16,), "nothing coarse"), ((4, 8, 16), "nothing coarse")],
)  # fmt: skip
def test_a_fovea_that_cannot_be_is_refused(sides, told):
    with pytest.raises(ConfigError, match=told):
        Fovea((3, 64, 64), 4, sides)


def test_a_frame_that_wide_patches_do_not_tile_and_a_gaze_at_nothing_are_refused():
    with pytest.raises(ConfigError, match="do not tile"):
        Fovea((3, 24, 24), 4, (2, 8))
    with pytest.raises(ConfigError, match="no effect"):
        FoveatedDiTConfig(fovea=(), gaze=MotionGaze())


# Where a world looks


def test_a_gaze_follows_what_moves_also_when_observed_in_one_pass():
    world = with_denoiser(TINY_FOVEATED, patch=1, fovea=(4,)).build(SPEC).eval()
    frames = torch.full((2, 4, *SPEC.frame_shape), 0.5)
    for step in range(1, 4):
        frames[0, step, :, 12, 3 * step] = 1.0
    actions = torch.zeros(2, 3, dtype=torch.int64)
    with torch.no_grad():
        state = world.observe(world.start(frames[:, 0], torch.arange(2)), actions, frames[:, 1:])
    row, column = (state["gaze"][0] * 16).tolist()
    assert abs(row - 12.5) <= 2
    assert abs(column - 7.5) <= 2.5  # between where it was, 6, and where it is, 9
    assert state["gaze"][1].tolist() == [0.5, 0.5]  # nothing moves


def test_a_gaze_goes_where_the_model_was_uncertain_and_stays_where_frames_are_observed():
    config = with_denoiser(TINY_FOVEATED, patch=1, fovea=(4,), gaze=UncertaintyGaze())
    world = randomized(config)
    first = torch.rand(2, *SPEC.frame_shape)
    actions = torch.zeros(2, 1, dtype=torch.int64)
    with torch.no_grad():
        state = world.start(first, torch.arange(2))
        assert state["gaze"].tolist() == [[0.5, 0.5]] * 2
        sampled, predicted = world._sample(state, world.action(actions))
        _, after = world.imagine(state, actions)
        observed = world.observe(after, actions, torch.rand(2, 1, *SPEC.frame_shape))
    fovea = world.denoiser.fovea
    latents = world._encode(world._decode(sampled))
    assert torch.equal(after["gaze"], fovea.best_gaze((latents - predicted).square().mean(2))[:, 0])
    assert torch.equal(observed["gaze"], after["gaze"])


def test_a_gaze_that_is_held_stays_and_the_rule_goes_on_when_it_is_let_go():
    world = TINY_FOVEATED.build(SPEC).eval()
    frames, actions = torch.rand(2, 5, *SPEC.frame_shape), torch.zeros(2, 2, dtype=torch.int64)
    told = torch.tensor([[0.9, 0.1], [torch.nan, torch.nan]])
    with torch.no_grad():
        state = world.look(world.start(frames[:, 0], torch.arange(2)), told)
        held = world.observe(state, actions, frames[:, 1:3])
        free = world.observe(world.start(frames[:, 0], torch.arange(2)), actions, frames[:, 1:3])
        again = world.observe(world.look(held, torch.full((2, 2), torch.nan)), actions, frames[:, 3:])
        never = world.observe(free, actions, frames[:, 3:])
    assert torch.equal(held["gaze"][0], told[0])
    assert torch.equal(held["gaze"][1], free["gaze"][1])
    assert torch.equal(again["gaze"], never["gaze"])


def test_windows_are_learned_at_gazes_all_over_the_frame_and_where_things_move():
    generator = torch.Generator().manual_seed(0)
    fovea, frames = Fovea((3, 16, 16), 1, (4,)), torch.zeros(400, 4, 3, 16, 16)
    frames[:, 1:, :, 2, 13] = 1.0

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    anywhere = HeldGaze().draw(fovea, frames, uniform)
    assert 0 <= float(anywhere.min()) < 0.05 < 0.95 < float(anywhere.max()) < 1
    still = (anywhere == anywhere[:, :1]).all(2).all(1).float().mean()
    assert 0.4 < float(still) < 0.6
    moving = MotionGaze().draw(fovea, frames, uniform)
    assert moving.shape == (400, 4, 2)
    seen = fovea.fine_pixels(moving[:, 2])[:, 2, 13].float().mean()  # frame 1 differs from frame 0, so frame 2 looks
    assert 0.7 < float(seen) < 0.85


@pytest.mark.parametrize("fovea", [(2,), ()])
def test_a_cached_step_equals_one_that_computes_everything_again_whatever_each_frame_looks_at(fovea):
    world = randomized(with_denoiser(TINY_FOVEATED, context=6, gaze=HeldGaze(), fovea=fovea))
    clean, context, noisy = presented(world, rows=2, frames=4)
    gazes = torch.rand((2, 4, 2), generator=torch.Generator().manual_seed(5))
    denoiser = world.denoiser
    assert isinstance(denoiser, FoveatedDiT)
    with torch.no_grad():
        cache = denoiser.init_cache(clean[:, 0])
        for i in range(4):
            if fovea:
                cache["gaze"], cache["gaze_held"] = gazes[:, i], torch.ones(2, dtype=torch.bool)
            at = slice(i, i + 1)
            this = dataclasses.replace(
                noisy, frames=noisy.frames[:, at], time=noisy.time[:, at], actions=noisy.actions[:, at]
            )
            alone = denoiser.forward_cached(cache, this)
            everything = dataclasses.replace(
                noisy,
                frames=torch.cat((context.frames[:, :i], this.frames), dim=1),
                time=torch.cat((context.time[:, :i], this.time), dim=1),
                actions=noisy.actions[:, : i + 1],
                gaze=gazes[:, : i + 1] if fovea else None,
            )
            whole = denoiser.forward_sequence(context, everything)
            torch.testing.assert_close(alone, whole[:, i:], rtol=1e-4, atol=1e-5)
            seen = dataclasses.replace(
                context, frames=context.frames[:, at], time=context.time[:, at], actions=context.actions[:, at]
            )
            cache = denoiser.update_cache(cache, seen)
    assert float(alone.std()) > 0.01


def test_all_gazes_are_one_graph_to_a_compiler():
    world = randomized(TINY_FOVEATED)
    _, _, noisy = presented(world, rows=2, frames=1)
    compiled = torch.compile(world.denoiser.forward_cached, backend="eager", fullgraph=True)
    with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=True):
        state = world.start(torch.rand(2, *SPEC.frame_shape), torch.arange(2))
        for gaze in torch.rand((5, 2, 2), generator=torch.Generator().manual_seed(0)):
            cache = dict(world.look(state, gaze).items())
            torch.testing.assert_close(compiled(cache, noisy), world.denoiser.forward_cached(cache, noisy))


# Environments


def world_of(config: DenoisingConfig) -> World:
    torch.manual_seed(0)
    steps = (2, 3)
    rng = np.random.default_rng(0)
    starts = Starts(
        first_frames=rng.integers(0, 256, (2, 16, 16, 3), np.uint8),
        frames=rng.integers(0, 256, (*steps, 16, 16, 3), np.uint8),
        actions=np.zeros(steps, np.int64),
        lengths=np.full(2, 3),
        at_episode_start=np.ones(2, bool),
    )
    return World(config.build(SPEC), config, starts)


@pytest.fixture(scope="module")
def foveated() -> World:
    return world_of(TINY_FOVEATED)


def test_an_environment_looks_where_each_row_is_told(foveated):
    env = DreamVectorEnv(foveated, 3)
    with pytest.raises(ResetNeededError):
        env.look((0.5, 0.5))
    env.reset(seed=0)
    free = env.gaze
    env.look([(0.1, 0.9), None, [1, 0]])
    assert env.gaze[[0, 2]].tolist() == [[pytest.approx(0.1), pytest.approx(0.9)], [1, 0]]
    assert env.gaze[1].tolist() == free[1].tolist()
    env.step([0, 1, 2])
    assert env.gaze[2].tolist() == [1, 0]
    env.look(np.array([0.25, 0.5]))
    assert env.gaze.tolist() == [[0.25, 0.5]] * 3
    state = env.get_state()
    env.look(None)
    env.step([0, 1, 2])
    assert env.gaze.tolist() != [[0.25, 0.5]] * 3
    env.set_state(state)
    assert env.gaze.tolist() == [[0.25, 0.5]] * 3


def test_a_dream_begins_looking_where_reset_says_and_the_next_one_does_not(foveated):
    env = DreamEnv(foveated)
    env.reset(seed=0, options={"gaze": (0.0, 1.0)})
    assert env.gaze.tolist() == [0.0, 1.0]
    env.reset()
    assert env.gaze.tolist() != [0.0, 1.0]
    rows = DreamVectorEnv(foveated, 2)
    rows.reset(seed=0, options={"gaze": (0.0, 0.0)})
    rows.reset(options={"gaze": [(1.0, 1.0), (1.0, 1.0)], "reset_mask": np.array([False, True])})
    assert rows.gaze.tolist() == [[0.0, 0.0], [1.0, 1.0]]


@pytest.mark.parametrize(
    "gaze",
    [(0.5, 1.5), (-0.1, 0), (float("nan"), 0), (0.5,), 0.5, "up", [(0.5, 0.5)], [None], [None, None, None],
     [[0.1, 0.2], [0.3, 2.0]], (True, False), [[0.1], [0.2]]],
)  # fmt: skip
def test_a_gaze_outside_the_frame_or_of_another_form_is_refused_and_changes_nothing(foveated, gaze):
    env = DreamVectorEnv(foveated, 2)
    env.reset(seed=0)
    before = env.get_state()
    with pytest.raises(GazeError):
        env.look(gaze)
    with pytest.raises(GazeError):
        env.reset(options={"gaze": gaze})
    after = env.get_state()
    assert all(torch.equal(before[key], after[key]) for key in before.keys(True, True))


def test_a_state_that_looks_outside_the_frame_is_refused(foveated):
    env = DreamVectorEnv(foveated, 1)
    env.reset(seed=0)
    state = env.get_state()
    state["dream", "gaze"][:] = 1.5
    with pytest.raises(StateError, match=r"gaze of row 0 holds 1\.5"):
        env.set_state(state)


def test_a_world_that_sees_all_alike_cannot_be_told_where_to_look():
    for config in (TINY_DIT, with_denoiser(TINY_FOVEATED, fovea=(), gaze=HeldGaze())):
        env = DreamEnv(world_of(config))
        env.reset(seed=0)
        with pytest.raises(GazeError, match="foveated"):
            env.look((0.5, 0.5))
        with pytest.raises(GazeError, match="foveated"):
            _ = env.gaze
        with pytest.raises(GazeError, match="foveated"):
            env.reset(options={"gaze": (0.5, 0.5)})


def test_the_gaze_can_be_a_part_of_the_action(foveated):
    env = GazeAction(DreamEnv(foveated))
    env.reset(seed=0)
    env.action_space.seed(0)
    action = env.action_space.sample()
    env.step(action)
    assert env.unwrapped.gaze.tolist() == pytest.approx(action["gaze"].tolist())
    for wrong in ({"action": 9, "gaze": (0.1, 0.1)}, {"action": 0}, 0):
        with pytest.raises(ActionError):
            env.step(wrong)
    with pytest.raises(GazeError):
        env.step({"action": 0, "gaze": (0.1, 7.0)})
    assert env.unwrapped.gaze.tolist() == pytest.approx(action["gaze"].tolist())
    with pytest.raises(ConfigError, match="dreams"):
        GazeAction(gym.make("CartPole-v1"))


# What uses it


@pytest.mark.slow
def test_the_example_trains_a_world_and_looks_about(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "examples"))
    example = importlib.import_module("gaze")
    example.main("own_envs:Dot", tmp_path, steps=400, updates=2)
    picture = np.asarray(Image.open(tmp_path / "gaze.png"))
    assert picture.shape == (3 * 64, 3 * (8 * 64 + 7 * 2), 3)
    assert (picture == 255).all(-1).mean() > 0.02  # the border of the fovea


def test_layouts_are_compared_at_equal_multiply_adds(tmp_path, monkeypatch, capsys):
    make = partial(make_real, "own_envs:Dot", size=64)
    data = collect(make, partial(RandomPolicy, make().action_space), tmp_path / "data", steps=150, num_workers=0)
    monkeypatch.setattr(foveation, "object_fidelity", lambda *_, **__: {"steps": {}})
    out, work = tmp_path / "found.json", tmp_path / "work"
    command = [
        "--data", str(data.path), "--steps", "2", "--codec-steps", "2", "--windows", "2", "--rounds", "1",
        "--horizons", "1", "--layouts", "uniform", "foveated", "--out", str(out), "--work", str(work),
    ]  # fmt: skip
    foveation.main(command)
    layouts = json.loads(out.read_text())["results"]["layouts"]
    uniform, fewest = layouts["uniform, 2 steps"], layouts["foveated, 2 steps"]
    assert (uniform["tokens"], fewest["tokens"]) == (64, 28)
    assert uniform["operations"] > 2.9 * fewest["operations"]
    longest = next(entry for entry in layouts.values() if entry["steps"] > 2)
    assert longest["steps"] == 6
    assert {"foveated, 6 steps, gaze held", "foveated, 6 steps, gaze on the uncertain"} < set(layouts)
    assert "| uniform, 2 steps" in capsys.readouterr().out
    monkeypatch.setattr(foveation, "_train", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr(foveation, "_judged", lambda *_: pytest.fail("judged again"))
    foveation.main(command)  # an interrupted run goes on
    assert json.loads(out.read_text())["results"]["layouts"] == layouts
    with pytest.raises(ConfigError, match="made in another way"):
        foveation.main([*command, "--seed", "1"])
