"""MineWorld as a whole world: its tokenizer computes what `diffusers` does, and its dreams show frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dreamenv.backbones.tokens.model import TokenWorld
from dreamenv.cli import main
from dreamenv.errors import ConfigError, WeightsError
from dreamenv.importers import Options, export_world, import_world
from dreamenv.importers.mineworld_world import load_tokenizer, read_tokenizer_config
from dreamenv.world import World

SIDE, VOCABULARY = 16, 25  # grids of 4x4


def vq_model(*, attention: bool = True) -> Any:
    """The public program's tokenizer, a class of `diffusers`, with random weights."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    model = diffusers.VQModel(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 32, 64), layers_per_block=1, latent_channels=8, num_vq_embeddings=VOCABULARY,
        mid_block_add_attention=attention, lookup_from_codebook=True,
    )  # fmt: skip
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data.add_(0.2 * torch.randn_like(parameter))
    model.quantize.embedding.weight.data.normal_(std=0.5)
    return model.eval()


def checkpoint(coder: Any) -> dict[str, Tensor]:
    """All tensors of a small MineWorld under the names of its checkpoints."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        hidden_size=128, intermediate_size=96, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=2,
        rms_norm_eps=1e-5, vocab_size=VOCABULARY + 70, max_position_embeddings=512, initializer_range=0.2,
    )  # fmt: skip
    llama = transformers.LlamaForCausalLM(config)
    return {f"transformer.{name}": one for name, one in llama.state_dict().items()} | {
        f"tokenizer.model.{name}": one for name, one in coder.state_dict().items()
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint, and a picture of its size."""
    folder = tmp_path_factory.mktemp("mineworld")
    torch.save({"state_dict": checkpoint(vq_model())}, folder / "small.ckpt")
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "start.png")
    return folder / "small.ckpt", folder / "start.png"


@pytest.mark.parametrize("attention", [True, False])
def test_the_tokenizer_computes_what_the_public_program_does(attention: bool) -> None:
    theirs = vq_model(attention=attention)
    config = read_tokenizer_config(theirs.state_dict())
    assert config.grid.attention == ("middle" if attention else "none")
    tokenizer = config.build((3, SIDE, SIDE)).eval()
    load_tokenizer(tokenizer, theirs.state_dict())
    frames = torch.rand(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        vectors = theirs.encode(2 * frames - 1).latents
        _, _, (_, _, tokens) = theirs.quantize(vectors)
        shown = theirs.decode(tokens, force_not_quantize=True, shape=(4, 4, 4, 8)).sample
        ours = tokenizer.encode(frames)
        decoded = tokenizer.decode(ours)
    assert torch.equal(ours.flatten(), tokens.flatten())
    assert len(ours.unique()) > 4
    torch.testing.assert_close(decoded, ((shown + 1) / 2).clamp(0, 1), rtol=1e-4, atol=1e-4)


def test_a_checkpoint_becomes_a_world_whose_dreams_show_what_its_tokens_stand_for(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    world = import_world("mineworld", [files[0]], starts=files[1], options=Options(size=(SIDE, SIDE), context=3))
    world.save(tmp_path / "world")
    read = World.load(tmp_path / "world")
    assert read.content_hash() == world.content_hash()
    model: Any = read.model
    assert isinstance(model, TokenWorld)
    assert (model.spec.context_frames, model.spec.predicts_rewards) == (3, False)
    first = torch.from_numpy(read.starts.first_frames).permute(0, 3, 1, 2).float() / 255
    actions = torch.zeros(1, 3, 9, dtype=torch.int64)
    actions[..., :2] = 10
    state = model.start(first, torch.zeros(1, dtype=torch.int64))
    coder = vq_model()
    with torch.no_grad():
        for step in range(3):
            imagined, state = model.imagine(state, actions[:, step : step + 1])
            shown = coder.decode(state["tokens"], force_not_quantize=True, shape=(1, 4, 4, 8)).sample
            torch.testing.assert_close(imagined.frames[:, 0], ((shown + 1) / 2).clamp(0, 1), rtol=1e-4, atol=1e-4)
    with pytest.raises(ConfigError, match=r"not written back.*world\.save"):
        export_world(read, tmp_path / "back")


def test_the_command_imports_it_and_says_what_it_assumed(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = f"--starts {files[1]} --out {tmp_path / 'world'} --size {SIDE} {SIDE}"
    main(["import", "mineworld", str(files[0]), *options.split()])
    shown = capsys.readouterr().out
    assert "15 were assumed" in shown
    assert "licence MIT" in shown
    assert World.load(tmp_path / "world").spec.context_frames == 15


def test_the_tokenizer_may_be_in_a_file_of_its_own(files: tuple[Path, Path], tmp_path: Path) -> None:
    tensors = torch.load(files[0], weights_only=True)["state_dict"]
    parts = {
        "transformer.ckpt": {name: one for name, one in tensors.items() if name.startswith("transformer.")},
        "vae.ckpt": {
            name.removeprefix("tokenizer."): one for name, one in tensors.items() if name.startswith("tokenizer.")
        },
    }
    for name, part in parts.items():
        torch.save({"state_dict": part}, tmp_path / name)
    options = Options(size=(SIDE, SIDE))
    both = import_world("mineworld", [tmp_path / name for name in parts], starts=files[1], options=options)
    whole = import_world("mineworld", [files[0]], starts=files[1], options=options)
    assert both.content_hash() == whole.content_hash()
    with pytest.raises(WeightsError, match=r"no tokenizer among these tensors.*Name vae\.ckpt"):
        import_world("mineworld", [tmp_path / "transformer.ckpt"], starts=files[1], options=options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("tokenizer.model.decoder.conv_in.bias"), r"1 are missing \(decoder\.conv_in\.bias\)"),
        (lambda t: t.update({"tokenizer.model.encoder.what": torch.zeros(1)}), r"1 are too many \(encoder\.what\)"),
        (lambda t: t.update({"tokenizer.model.encoder.conv_in.bias": torch.zeros(3)}), r"conv_in\.bias is \(3,\)"),
        (lambda t: t.update({"tokenizer.model.quant_conv.weight": torch.zeros(8, 9, 1, 1)}), "8 numbers, .* 9"),
        (lambda t: t.pop("transformer.model.norm.weight"), r"model\.norm\.weight is missing"),
        (lambda t: t.update({"tokenizer.model.quantize.embedding.weight": torch.zeros(9, 8)}), "the codebook 9"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_refused(
    files: tuple[Path, Path], tmp_path: Path, change: Any, message: str
) -> None:
    tensors = torch.load(files[0], weights_only=True)["state_dict"]
    change(tensors)
    torch.save(tensors, tmp_path / "wrong.ckpt")
    with pytest.raises(WeightsError, match=message):
        import_world("mineworld", [tmp_path / "wrong.ckpt"], starts=files[1], options=Options(size=(SIDE, SIDE)))


def test_a_size_that_the_grid_does_not_divide_is_refused(files: tuple[Path, Path]) -> None:
    with pytest.raises(WeightsError, match="multiples of 4"):
        import_world("mineworld", [files[0]], starts=files[1], options=Options(size=(18, 16)))
