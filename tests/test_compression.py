"""A compressed clip decodes to the same pixels, or to an error: whatever was altered, by whatever world."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import av
import gymnasium as gym
import numpy as np
import pytest
import torch
from tiny_worlds import TINY_DIT

from dreamenv.action_layout import ActionLayout
from dreamenv.backbones.grid_rssm import presets as grid_rssm
from dreamenv.backbones.persistence import PersistenceConfig
from dreamenv.cli import main
from dreamenv.compression import (
    HEAD_FOLDER,
    Clip,
    HeadTraining,
    PixelHead,
    PixelHeadConfig,
    TrainedHead,
    compress,
    decompress,
    ideal_bits,
    train_pixel_head,
    write_clip,
)
from dreamenv.compression.actions import pack_actions, unpack_actions
from dreamenv.compression.alignment import align
from dreamenv.compression.coders import Decoder, Encoder
from dreamenv.compression.lattice import lattice
from dreamenv.compression.mixture import LogisticMixture
from dreamenv.data import Episode, EpisodeDataset, Provenance
from dreamenv.data.starts import Starts
from dreamenv.diffusion.context_noise import Stabilization
from dreamenv.diffusion.process import RectifiedFlow
from dreamenv.diffusion.sampler import DPMSolver
from dreamenv.diffusion.schedule import Pyramid
from dreamenv.errors import (
    ActionError,
    CompressionDamagedError,
    CompressionError,
    ConfigError,
    DreamenvError,
    FrameError,
    StorageError,
    WorldMismatchError,
)
from dreamenv.testing import SPEC
from dreamenv.training import write_mp4
from dreamenv.world import World

SMALL = PixelHeadConfig(hidden=8, past=2, reach=(1, 2))
SIDE = SPEC.frame_shape[1]


def make_clip(steps: int = 5, seed: int = 0) -> Clip:
    """A bright square that moves over a texture, to the left or right by the action."""
    random = np.random.default_rng(seed)
    texture = np.random.default_rng(99).integers(60, 70, (SIDE, SIDE, 3)).astype(np.uint8)
    actions, column, frames = random.integers(3, size=steps), 6, []
    for action in (1, *actions):
        column = int(np.clip(column + action - 1, 0, SIDE - 4))
        frames.append(texture.copy())
        frames[-1][5:9, column : column + 4] = (250, 200, 0)
    return Clip(frames=np.stack(frames), actions=actions.astype(np.int64))


def make_world(seed: int = 0) -> World:
    frames = make_clip().frames[:2] // (seed + 1)
    starts = Starts(
        first_frames=frames, actions=np.zeros((2, 1), np.int64), frames=frames[:, None],
        lengths=np.zeros(2, np.int64), at_episode_start=np.ones(2, bool),
    )  # fmt: skip
    config = PersistenceConfig()
    return World(config.build(SPEC).eval(), config, starts)


def untrained(world: World, seed: int = 0) -> TrainedHead:
    torch.manual_seed(seed)
    head = PixelHead(SMALL, world.spec.frame_shape)
    for parameter in head.parameters():
        parameter.data = (parameter.data + 0.02 * torch.randn(parameter.shape)).half().float()
    return TrainedHead(model=head.eval(), world_hash=world.content_hash())


@pytest.fixture(scope="module")
def world() -> World:
    return make_world()


@pytest.fixture(scope="module")
def head(world: World) -> TrainedHead:
    return untrained(world)


@pytest.fixture(scope="module")
def content(world: World, head: TrainedHead) -> bytes:
    return compress(make_clip(), world, head).content


def test_a_clip_decodes_to_the_same_pixels_and_actions(world: World, head: TrainedHead) -> None:
    clip, threads = make_clip(), torch.get_num_threads()
    coded = compress(clip, world, head)
    decoded = decompress(coded.content, world, head)
    assert decoded.frames.dtype == np.uint8
    assert np.array_equal(decoded.frames, clip.frames)
    assert np.array_equal(decoded.actions, clip.actions)
    assert torch.get_num_threads() == threads
    assert coded.pixel_bits == pytest.approx(coded.ideal_bits, rel=0.002, abs=100)
    assert ideal_bits(clip, world, head) == pytest.approx(coded.ideal_bits)


def test_any_pixels_can_be_coded(world: World, head: TrainedHead) -> None:
    """Also those that nothing predicts."""
    random = np.random.default_rng(3)
    clip = Clip(frames=random.integers(256, size=(3, SIDE, SIDE, 3)).astype(np.uint8), actions=np.array([0, 2]))
    assert np.array_equal(decompress(compress(clip, world, head).content, world, head).frames, clip.frames)


def test_worlds_that_draw_and_worlds_that_dream_in_chunks_decode_alike() -> None:
    chunks = dataclasses.replace(
        TINY_DIT, process=RectifiedFlow(), sampler=DPMSolver(steps=2), schedule=Pyramid(frames=2),
        context_noise=Stabilization(stabilization_level=0.02),
    )  # fmt: skip
    for config in (grid_rssm.tiny(), chunks):
        model = config.build(SPEC)
        world = World(model.eval(), config, make_world().starts)
        head, clip = untrained(world), make_clip()
        assert np.array_equal(decompress(compress(clip, world, head).content, world, head).frames, clip.frames)


def test_a_prediction_that_comes_true_is_cheap(world: World, head: TrainedHead) -> None:
    still = Clip(frames=np.repeat(make_clip().frames[:1], 4, axis=0), actions=np.ones(3, np.int64))
    assert ideal_bits(still, world, head) < ideal_bits(make_clip(3), world, head)


def test_actions_may_be_given_in_place_of_being_sent(world: World, head: TrainedHead) -> None:
    clip = make_clip()
    coded = compress(clip, world, head, with_actions=False)
    assert coded.action_bits == 0
    assert np.array_equal(decompress(coded.content, world, head, actions=clip.actions).frames, clip.frames)
    with pytest.raises(ConfigError, match="lacks its actions"):
        decompress(coded.content, world, head)
    with pytest.raises(ConfigError, match="5 steps, and 4"):
        decompress(coded.content, world, head, actions=clip.actions[:-1])
    with pytest.raises(DreamenvError):  # other actions: other dreams, or another checksum
        decompress(coded.content, world, head, actions=(clip.actions + 1) % 3)
    with pytest.raises(ConfigError, match="has its own actions"):
        decompress(compress(clip, world, head).content, world, head, actions=clip.actions)


def test_every_flipped_bit_and_every_cut_is_refused(content: bytes, world: World, head: TrainedHead) -> None:
    random = np.random.default_rng(0)
    places = {*range(24), *random.integers(len(content), size=40).tolist(), len(content) - 1}
    for place in sorted(places):
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(random.integers(8))
        with pytest.raises(CompressionError):
            decompress(bytes(damaged), world, head)
    for size in (0, 3, 4, 5, 50, len(content) // 2, len(content) - 1):
        with pytest.raises(CompressionError):
            decompress(content[:size], world, head)
    with pytest.raises(CompressionDamagedError):
        decompress(content + b"\0", world, head)


def test_what_is_no_compressed_clip_is_named(world: World, head: TrainedHead) -> None:
    with pytest.raises(CompressionError, match=r"video\.mp4 is no compressed clip"):
        decompress(b"PK\x03\x04 and so on", world, head, name="video.mp4")
    with pytest.raises(CompressionError, match=r"format 9.*Upgrade"):
        decompress(b"DRMC\x09" + bytes(300), world, head)


def test_another_world_and_another_head_are_refused(content: bytes, world: World, head: TrainedHead) -> None:
    other = make_world(seed=5)
    with pytest.raises(WorldMismatchError, match="pixel head was trained for another world"):
        compress(make_clip(), other, head)
    with pytest.raises(WorldMismatchError, match="compressed by another world"):
        decompress(content, other, untrained(other))
    with pytest.raises(WorldMismatchError, match="compressed by another pixel head"):
        decompress(content, world, untrained(world, seed=1))


def test_other_probabilities_give_an_error_and_never_other_pixels(
    content: bytes, world: World, head: TrainedHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another machine's last bit would."""
    exact = LogisticMixture.probabilities

    def rounded(mixture: LogisticMixture, channel: int, levels: torch.Tensor) -> torch.Tensor:
        return exact(mixture, channel, levels).half().float() + 1e-7

    monkeypatch.setattr(LogisticMixture, "probabilities", rounded)
    with pytest.raises(CompressionError, match=r"does not decode to what|cannot be decoded"):
        decompress(content, world, head)


def test_clips_of_another_kind_are_refused(world: World, head: TrainedHead) -> None:
    clip = make_clip()
    with pytest.raises(FrameError, match=r"float32"):
        Clip(frames=clip.frames.astype(np.float32), actions=clip.actions)
    with pytest.raises(FrameError, match="at least one step"):
        Clip(frames=clip.frames[:1], actions=clip.actions[:0])
    with pytest.raises(FrameError, match="at least one step"):
        Clip(frames=clip.frames[:0], actions=clip.actions[:0])
    with pytest.raises(FrameError, match="6 frames need 5 actions, not 4"):
        Clip(frames=clip.frames, actions=clip.actions[:-1])
    with pytest.raises(FrameError, match=r"\(8, 16, 3\).*\(16, 16, 3\)"):
        compress(Clip(frames=clip.frames[:, :8], actions=clip.actions), world, head)
    with pytest.raises(ActionError, match="outside"):
        compress(Clip(frames=clip.frames, actions=clip.actions + 7), world, head)


def test_a_head_is_saved_and_read_as_it_is(tmp_path: Path, world: World, head: TrainedHead) -> None:
    read = TrainedHead.load(head.save(tmp_path / "head"))
    assert read.digest == head.digest
    assert read.world_hash == head.world_hash
    weights = tmp_path / "head" / "pixel_head.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CompressionDamagedError, match="cut short"):
        TrainedHead.load(tmp_path / "head")
    with pytest.raises(CompressionError, match="no pixel head"):
        TrainedHead.load(tmp_path / "nothing")
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "mine").write_text("keep")
    with pytest.raises(StorageError, match="left alone"):
        head.save(tmp_path / "file")


def test_a_head_in_the_folder_of_its_world_outlives_saving_the_world_again(
    tmp_path: Path, world: World, head: TrainedHead
) -> None:
    folder = tmp_path / "world"
    world.save(folder)
    head.save(folder / HEAD_FOLDER)
    World.load(folder).save(folder)
    TrainedHead.load(folder / HEAD_FOLDER).check_world(World.load(folder))
    make_world(seed=1).save(folder)  # another world: the head is still there, and says that it is of another one
    with pytest.raises(WorldMismatchError, match="trained for another world"):
        TrainedHead.load(folder / HEAD_FOLDER).check_world(World.load(folder))


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recording") / "data"
    provenance = Provenance(environment_id="squares-v0", frame_size=(SIDE, SIDE))
    dataset = EpisodeDataset.create(folder, provenance, SPEC.action_space, (SIDE, SIDE, 3))
    for seed in range(6):
        clip = make_clip(20, seed)
        dataset.append(
            Episode(frames=clip.frames, actions=clip.actions, rewards=np.zeros(20), terminated=False, truncated=True)
        )
    return folder


def test_a_head_learns_what_moves_and_beats_one_that_has_not(world: World, recording: Path) -> None:
    dataset = EpisodeDataset.open(recording)
    training = HeadTraining(frames=60, steps=60, batch_size=6, pixels=16, learning_rate=1e-2)
    trained = train_pixel_head(world, dataset, SMALL, training)
    clip = make_clip(8, seed=77)
    untaught = train_pixel_head(world, dataset, SMALL, dataclasses.replace(training, steps=1))
    assert ideal_bits(clip, world, trained) < 0.7 * ideal_bits(clip, world, untaught)
    again = train_pixel_head(world, dataset, SMALL, dataclasses.replace(training, steps=1))
    assert again.digest == untaught.digest  # the same seed, the same head
    assert np.array_equal(decompress(compress(clip, world, trained).content, world, trained).frames, clip.frames)


def test_heads_and_their_training_refuse_what_cannot_be() -> None:
    for wrong in ({"hidden": 0}, {"past": 0}, {"past": 9}, {"reach": (40, 1)}, {"past": 8, "reach": (20, 20)}):
        with pytest.raises(ConfigError):
            PixelHeadConfig(**wrong)
    for name in ("frames", "steps", "batch_size", "pixels", "learning_rate"):
        with pytest.raises(ConfigError, match=name):
            HeadTraining(**{name: 0})


# The parts


@pytest.mark.parametrize("size", [(64, 64), (16, 16), (12, 20), (8, 9), (1, 1), (60, 84)])
def test_a_lattice_codes_every_pixel_once_and_looks_only_at_decoded_ones(size: tuple[int, int]) -> None:
    decoded = torch.zeros(size, dtype=torch.bool)
    for one in lattice(*size):
        assert bool(decoded[one.neighbours[..., 0], one.neighbours[..., 1]].all())
        row, column = one.targets.unbind(1)
        assert not bool(decoded[row, column].any())
        decoded[row, column] = True
    assert bool(decoded.all())


def test_a_match_is_found_where_a_frame_has_moved_to() -> None:
    past = torch.randint(256, (1, 2, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    frame = torch.roll(past[:, 1], (1, -3), (-2, -1)).float()
    found = align(frame[:, :, ::2, ::2], past, cell=2, reach=(2, 4), window=3)
    inner = (slice(None), slice(4, 12), slice(4, 12))
    assert found.frame[inner].eq(1).all()
    assert found.shift[:, 0][inner].eq(-1).all()
    assert found.shift[:, 1][inner].eq(3).all()
    assert float(found.cost[inner].max()) == 0


def test_a_mixture_costs_what_its_probabilities_say_and_they_add_up_to_one() -> None:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    mixture = LogisticMixture.of(random(4, 9), 9 * random(4, 3, 9), random(4, 3, 9), random(4, 3, 9),
                                 100 + 100 * random(4, 3, 9))  # fmt: skip
    levels = torch.randint(256, (3, 9), generator=generator).float()
    levels[:, 0], levels[:, 1] = 0, 255
    bits = mixture.bits(levels)
    for channel in range(3):
        probabilities = mixture.probabilities(channel, levels)
        torch.testing.assert_close(probabilities.sum(dim=-1), torch.ones(9), rtol=1e-4, atol=1e-4)
        found = -torch.log2(probabilities[torch.arange(9), levels[channel].long()])
        torch.testing.assert_close(found, bits[channel], rtol=1e-2, atol=1e-2)


def test_range_coding_reads_what_it_wrote_and_adds_little() -> None:
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.full(256, 0.1), size=2000).astype(np.float32) + np.float32(1e-7)
    levels = np.array([random.choice(256, p=row / row.sum()) for row in probabilities.astype(np.float64)], np.int32)
    encoder = Encoder()
    encoder.code(probabilities, levels)
    content = encoder.content()
    assert np.array_equal(Decoder(content).code(probabilities, None), levels)
    assert 8 * len(content) < 1.001 * encoder.ideal_bits + 64
    with pytest.raises(CompressionDamagedError):
        Decoder(content[:-1])


@pytest.mark.parametrize(
    ("space", "actions"),
    [
        (gym.spaces.Discrete(3), [0, 2, 1]),
        (gym.spaces.Discrete(1000), [0, 999, 256]),
        (gym.spaces.Discrete(3, start=-1), [-1, 1, 0]),
        (gym.spaces.MultiDiscrete([2, 70000]), [[0, 1], [1, 69999], [0, 0]]),
        (gym.spaces.Box(-1, 1, (2,), np.float32), [[0.1, -1.0], [1e-20, 0.5], [0, 0]]),
    ],
)
def test_actions_of_every_kind_are_packed_and_unpacked(space: gym.Space, actions: list) -> None:
    layout = ActionLayout(space)
    given = np.array(actions, layout.dtype)
    packed = pack_actions(given)
    found = unpack_actions(packed, len(given), layout)
    assert found.dtype == given.dtype
    assert np.array_equal(found, given)
    for wrong in (b"", packed[:-6], b"\x09" + packed[1:]):
        with pytest.raises(CompressionDamagedError):
            unpack_actions(wrong, len(given), layout)


# The commands


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory, world: World, head: TrainedHead) -> Path:
    folder = tmp_path_factory.mktemp("shelf")
    world.save(folder / "world")
    head.save(folder / "pixel_head")
    write_clip(folder / "clip.npz", make_clip())
    return folder


def run(*words: object) -> int:
    return main([str(word) for word in words])


def test_the_commands_go_round(shelf: Path, recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world, out = shelf / "world", shelf / "clip.drm"
    assert run("compress", shelf / "clip.npz", "--world", world, "--out", out) == 0
    assert "bits a frame" in capsys.readouterr().out
    assert run("decompress", out, "--world", world, "--out", shelf / "again.npz") == 0
    clip = make_clip()
    with np.load(shelf / "again.npz") as again:
        assert np.array_equal(again["frames"], clip.frames)
        assert np.array_equal(again["actions"], clip.actions)
    words = ("compress", recording, "--episode", 2, "--world", world, "--out", out, "--no-with-actions")
    assert run(*words) == 0
    again = ("decompress", out, "--world", world, "--out", shelf / "third.npz")
    assert run(*again) == 2
    assert "--actions" in capsys.readouterr().err
    assert not (shelf / "third.npz").exists()
    assert run(*again, "--actions", recording, "--episode", 2) == 0
    with np.load(shelf / "third.npz") as third:
        assert np.array_equal(third["frames"], EpisodeDataset.open(recording)[2].frames)
    assert run("score", shelf / "clip.npz", "--world", world, "--pixels") == 0
    assert "bits a value" in capsys.readouterr().out


def test_a_video_and_its_actions_are_a_clip(
    shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, world = make_clip(9, seed=5), shelf / "world"
    write_mp4(tmp_path / "film.mp4", clip.frames, 10.0)  # lossy: what it decodes to is the clip
    monkeypatch.chdir(tmp_path)
    words = ("compress", "film.mp4", "--world", world, "--out", "film.drm")
    assert run(*words) == 2
    assert "film.npy is missing" in capsys.readouterr().err
    np.save("film.npy", clip.actions)
    assert run(*words, "--no-with-actions") == 0
    assert run("decompress", "film.drm", "--world", world, "--out", "film.npz", "--actions", "film.mp4") == 0
    with av.open("film.mp4") as container, np.load("film.npz") as again:
        decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        assert np.array_equal(again["frames"], decoded)
        assert np.array_equal(again["actions"], clip.actions)
    np.save("film.npy", clip.actions[:-1])
    assert run(*words) == 2
    assert "10 frames need 9 actions, not 8" in capsys.readouterr().err
    Path("film.npy").write_bytes(b"no array")
    assert run(*words) == 2
    assert "film.npy" in capsys.readouterr().err
    write_mp4(tmp_path / "film.mp4", clip.frames, 10.0, scale=2)
    assert run(*words) == 2
    assert f"{2 * SIDE} x {2 * SIDE} pixels" in capsys.readouterr().err
    Path("film.mp4").write_bytes(Path("film.mp4").read_bytes()[:400])
    assert run(*words) == 2
    assert "film.mp4" in capsys.readouterr().err


def test_the_head_is_trained_by_a_command(shelf: Path, recording: Path) -> None:
    words = ("--world", shelf / "world", "--out", shelf / "other", "--frames", 20, "--steps", 2, "--hidden", 4)
    assert run("pixels", recording, *words, "--reach", 1, 1, "--no-progress") == 0
    assert TrainedHead.load(shelf / "other").model.config.hidden == 4


def test_a_world_scores_its_own_tokens_after_a_context(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    World(grid_rssm.tiny().build(SPEC), grid_rssm.tiny(), make_world().starts).save(tmp_path / "grid")
    write_clip(tmp_path / "clip.npz", make_clip())
    words = ("score", tmp_path / "clip.npz", "--world", tmp_path / "grid", "--context")
    assert run(*words, 2, "--out", tmp_path / "score.json") == 0
    assert "bits a frame of tokens (exact), over 3 frames" in capsys.readouterr().out
    assert run(*words, 5) == 2
    assert "no more than the context" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("compress", "nothing.npz", "--world", "world", "--out", "x"), "no clip at"),
        (("compress", "text.txt", "--world", "world", "--out", "x"), "dreamenv convert"),
        (("compress", "broken.npz", "--world", "world", "--out", "x"), "damaged"),
        (("compress", "clip.npz", "--world", "world", "--out", "x", "--episode", "1"), "--episode"),
        (("compress", "clip.npz", "--world", "nowhere", "--out", "x"), "nowhere"),
        (("compress", "clip.npz", "--world", "world", "--out", "x", "--head", "no"), "no pixel head at no"),
        (("compress", "small.npz", "--world", "world", "--out", "x"), "frames are"),
        (("decompress", "nothing", "--world", "world", "--out", "x.npz"), "no compressed clip"),
        (("decompress", "text.txt", "--world", "world", "--out", "x.npz"), "text.txt is no compressed clip"),
        (("decompress", "text.txt", "--world", "world", "--out", "x.mp4"), ".npz"),
        (("score", "clip.npz", "--world", "world"), "gives frames no probability"),
        (("score", "clip.npz", "--world", "world", "--context", "-1"), "--context"),
        (("pixels", "nothing", "--world", "world", "--out", "x"), "no recording"),
    ],
)
def test_bad_input_to_the_commands_is_one_line(
    words: tuple[str, ...], said: str, shelf: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(shelf)
    clip = make_clip()
    Path("text.txt").write_text("hello")
    Path("broken.npz").write_bytes(Path("clip.npz").read_bytes()[:500])
    write_clip(Path("small.npz"), Clip(frames=clip.frames[:, :8], actions=clip.actions))
    before = sorted(path.name for path in shelf.iterdir())
    assert run(*words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in shelf.iterdir()) == before


def test_a_failed_decompression_leaves_what_was_there(shelf: Path, content: bytes) -> None:
    (shelf / "bad.drm").write_bytes(content[:-20])
    write_clip(shelf / "kept.npz", make_clip())
    before = (shelf / "kept.npz").read_bytes()
    assert run("decompress", shelf / "bad.drm", "--world", shelf / "world", "--out", shelf / "kept.npz") == 2
    assert (shelf / "kept.npz").read_bytes() == before


def test_outputs_are_refused_before_the_work_and_nothing_is_lost(shelf: Path, content: bytes, capsys) -> None:
    write_clip(shelf / "clip.npz", make_clip())
    clip, before = shelf / "clip.npz", (shelf / "clip.npz").read_bytes()
    manifest = shelf / "world" / "world.json"
    described = manifest.read_bytes()
    for command, out, why in (
        ("compress", shelf, "is a folder"),
        ("compress", clip, "which is read"),
        ("compress", manifest, "describes its folder"),
        ("score", manifest, "describes its folder"),
    ):
        pixels = ("--pixels",) if command == "score" else ()
        assert run(command, clip, "--world", shelf / "world", *pixels, "--out", out) == 2
        assert why in capsys.readouterr().err
    assert clip.read_bytes() == before
    assert manifest.read_bytes() == described
    with pytest.raises(StorageError, match="is no pixel head"):
        TrainedHead.check_free(shelf / "world")


def test_probabilities_that_differ_are_not_called_damage(
    world: World, head: TrainedHead, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def differs(self: Decoder, probabilities: object, levels: object) -> object:
        raise CompressionDamagedError("the coded pixels are damaged")

    monkeypatch.setattr(Decoder, "code", differs)
    with pytest.raises(CompressionError, match=r"computed with .*, here there is") as caught:
        decompress(content, world, head)
    assert not isinstance(caught.value, CompressionDamagedError)
