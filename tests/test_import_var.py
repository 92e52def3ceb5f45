"""VAR's tokenizer comes in from its file: what the public program computes, sizes from shapes, wrong files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from dreamenv.codecs.codebook import CodebookConfig
from dreamenv.codecs.ldm_grid import LDMGridConfig
from dreamenv.codecs.multi_scale import MultiScaleTokenizer, MultiScaleTokenizerConfig
from dreamenv.errors import WeightsError
from dreamenv.importers.var import import_var_tokenizer, to_var_tensors

SIZE, SCALES = (32, 32), (1, 2)
CONFIG = MultiScaleTokenizerConfig(
    grid=LDMGridConfig(channels=(32, 32, 64, 64, 128)),
    codebook=CodebookConfig(vocabulary=64, width=8),
    scales=SCALES,
    phis=2,
)
# Of the public program (FoundationVision/VAR, models/vqvae.py) with the weights and the frame below, computed once.
TOKENS = [17, 49, 49, 49, 49]
PIXELS = [0.52338, 0.613193, 0.641341, 0.458615, 0.45891, 0.433999, 0.475544, 0.385698, 0.360409]
NEXT = [-0.163222, -0.036152, 0.034908, -0.044513, 0.028231, 0.140286, 0.064593, 0.067831]


def published() -> dict[str, Tensor]:
    """All tensors of a small tokenizer under VAR's names, the same numbers on every machine."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shapes = {name: tensor.shape for name, tensor in to_var_tensors(CONFIG.build((3, *SIZE))).items()}
    tensors = {"quantize.ema_vocab_hit_SV": torch.zeros(len(SCALES), 64)}
    for index, name in enumerate(sorted(shapes)):
        shape = shapes[name]
        values = torch.sin(torch.arange(shape.numel(), dtype=torch.float64) * (1.1 + 0.137 * index) + index)
        scale = 0.5 if name == "quantize.embedding.weight" else (6 / max(1, shape[1:].numel())) ** 0.5
        is_norm = "norm" in name and name.endswith("weight")
        values = 1 + 0.2 * values if is_norm else values * (scale if len(shape) > 1 else 0.1)
        tensors[name] = values.reshape(shape).float()
    return tensors


def frame() -> Tensor:
    y, x = torch.meshgrid(torch.linspace(0, 1, SIZE[0]), torch.linspace(0, 1, SIZE[1]), indexing="ij")
    return torch.stack((y, x, (9 * x * y).sin() / 2 + 0.5))[None]


def saved(path: Path, tensors: dict[str, Tensor]) -> Path:
    torch.save(tensors, path)
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("var") / "vae.pth", published())


def imported(file: Path) -> MultiScaleTokenizer:
    return import_var_tokenizer(file, size=SIZE, scales=SCALES)


def test_it_computes_what_the_public_program_does(file: Path) -> None:
    tokenizer = imported(file)
    with torch.no_grad():
        tokens = tokenizer.encode(frame())
        decoded = tokenizer.decode(tokens)
        following = tokenizer.next_scale_inputs(tokens)
    assert tokens[0].tolist() == TOKENS
    torch.testing.assert_close(decoded[0, :, 7, ::13].flatten(), torch.tensor(PIXELS), rtol=0, atol=1e-4)
    torch.testing.assert_close(following[0, -1], torch.tensor(NEXT), rtol=0, atol=1e-4)


def test_sizes_are_read_from_shapes(file: Path) -> None:
    config = imported(file).config
    assert config.grid == CONFIG.grid
    assert (config.codebook.vocabulary, config.codebook.width, config.phis) == (64, 8, 2)


def test_what_was_imported_is_written_as_it_was(file: Path) -> None:
    before, after = published(), to_var_tensors(imported(file))
    assert set(before) - set(after) == {"quantize.ema_vocab_hit_SV"}
    assert all(torch.equal(after[name], before[name]) for name in after)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("decoder.mid.attn_1.qkv.bias"), r"1 are missing \(decoder\.mid\.attn_1\.qkv\.bias\)"),
        (lambda t: t.update({"what.else": torch.zeros(1)}), r"1 are too many \(what\.else\)"),
        (lambda t: t.update({"encoder.norm_out.bias": torch.zeros(3)}), r"encoder\.norm_out\.bias is \(3,\)"),
        (lambda t: t.pop("quantize.embedding.weight"), r"quantize\.embedding\.weight is missing"),
        (lambda t: [t.pop(f"quantize.quant_resi.qresi_ls.{k}.weight") for k in (0, 1)], "no tokenizer of several"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, change: object, message: str) -> None:
    tensors = published()
    change(tensors)  # type: ignore[operator]
    with pytest.raises(WeightsError, match=message):
        imported(saved(tmp_path / "vae.pth", tensors))


def test_sizes_without_published_scales_and_other_files_are_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no scales were published for frames of 64x64"):
        import_var_tokenizer(file, size=(64, 64))
    with pytest.raises(WeightsError, match=r"cannot be set up so: .*multiples of 16"):
        import_var_tokenizer(file, size=(40, 64), scales=SCALES)
    with pytest.raises(WeightsError, match="there is no file"):
        import_var_tokenizer(tmp_path / "none.pth")
    with pytest.raises(WeightsError, match="are 'conv_grid', not VAR's"):
        to_var_tensors(MultiScaleTokenizerConfig().build((3, 64, 64)))
