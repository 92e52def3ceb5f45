"""Parts: kinds, settings that are refused by name, and JSON."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest

from dreamenv.backbones.denoising import DenoisingConfig
from dreamenv.codecs.conv_vae import ConvVAEConfig
from dreamenv.denoisers.framepack import FramePackConfig
from dreamenv.denoisers.unet import UNetConfig
from dreamenv.diffusion.sampler import DDIM, Euler
from dreamenv.errors import ConfigError, UnknownNameError
from dreamenv.parts import Part, find_part, part_from_json, part_to_json
from dreamenv.presets import backbone_names, make_config, preset_names, register_backbone

PRESETS = [(backbone, preset) for backbone in backbone_names() for preset in preset_names(backbone)]


@dataclass(frozen=True, kw_only=True)
class Spoon(Part, kind="spoon_of_tests"):
    length: int = 3
    marks: tuple[tuple[int, int], ...] = ((1, 2),)
    handle: Part | None = None


def test_a_part_is_found_by_its_kind():
    assert find_part("ddim") is DDIM
    assert find_part("spoon_of_tests") is Spoon
    assert DDIM.kind == "ddim"


def test_a_kind_is_that_of_one_class():
    with pytest.raises(ConfigError, match=r"kind 'ddim' is dreamenv.diffusion.sampler.DDIM; choose another name"):

        class Another(Part, kind="ddim"):
            pass

    assert find_part("ddim") is DDIM


def test_an_unknown_kind_is_refused_with_near_ones():
    with pytest.raises(UnknownNameError, match=r"kind named 'dim'. Did you mean 'ddim'"):
        find_part("dim")
    with pytest.raises(UnknownNameError, match="Did you mean 'causal_dit'"):
        part_from_json({"kind": "casual_dit"})


def test_a_setting_that_another_part_has_is_refused_with_that_part():
    with pytest.raises(UnknownNameError, match=r"setting of 'unet' \(it is one of 'causal_dit'.*'action_conditioning'"):
        UNetConfig(action_conditioning="cross_attention")
    with pytest.raises(UnknownNameError, match=r"setting of 'unet' \(it is one of 'cross_dit'.*'max_time_shift'"):
        UNetConfig(max_time_shift=4)
    with pytest.raises(UnknownNameError, match=r"setting of 'euler' \(it is one of 'ddim'.*'eta'"):
        dataclasses.replace(Euler(), eta=0.5)
    with pytest.raises(UnknownNameError, match=r"setting of 'denoising' \(it is one of .*'depth'"):
        DenoisingConfig(depth=3)


def test_the_part_that_has_a_setting_is_named_also_before_it_was_imported():
    script = "from dreamenv.denoisers.unet import UNetConfig; UNetConfig(packing=((1, 1),))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert "No setting of 'unet' (it is one of 'framepack') named 'packing'" in done.stderr


def test_a_misspelt_setting_is_refused_with_the_one_that_was_meant():
    with pytest.raises(
        UnknownNameError, match=r"setting of 'conv_vae' named 'temporal_sride'. Did you mean 'temporal_st"
    ):
        ConvVAEConfig(temporal_sride=2)
    with pytest.raises(UnknownNameError, match=r"setting of 'ddim' named 'step'. Did you mean 'steps'"):
        part_from_json({"kind": "ddim", "step": 4})


def test_lists_become_tuples_and_parts_within_parts_are_read():
    spoon = Spoon(length=2, marks=((1, 1), (4, 2)), handle=FramePackConfig(packing=((1, 1), (2, 2))))
    written = json.loads(json.dumps(part_to_json(spoon)))
    assert written["marks"] == [[1, 1], [4, 2]]
    assert written["handle"]["kind"] == "framepack"
    read = part_from_json(written)
    assert read == spoon
    assert isinstance(read, Spoon)
    assert read.marks == ((1, 1), (4, 2))
    assert hash(read) == hash(spoon)


def test_settings_that_are_not_written_are_the_defaults():
    assert part_from_json({"kind": "spoon_of_tests"}) == Spoon()


def test_values_without_a_kind_are_refused():
    with pytest.raises(ConfigError, match=r"needs its 'kind'; found the settings \['eta', 'steps'\]"):
        part_from_json({"steps": 3, "eta": 0.0})
    with pytest.raises(ConfigError, match="needs its 'kind'"):
        part_from_json({"kind": None})
    with pytest.raises(ConfigError, match=r"needs its 'kind'; found the settings \['depth'\]"):
        part_from_json({"kind": "denoising", "denoiser": {"depth": 3}})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "ddim", "steps": "many"}, "steps must be a whole number, not 'many' .in 'ddim'."),
        ({"kind": "ddim", "steps": 2.5}, "steps must be a whole number, not 2.5"),
        ({"kind": "ddim", "steps": True}, "steps must be a whole number, not True"),
        ({"kind": "ddim", "steps": None}, "steps must be a whole number, not None"),
        ({"kind": "ddim", "eta": float("nan")}, "eta must be a finite number, not nan"),
        ({"kind": "ddim", "quantize_x0": "no"}, "quantize_x0 must be True or False, not 'no'"),
        ({"kind": "ddim", "init_noise_sigma": "1"}, "init_noise_sigma must be a finite number or None, not '1'"),
        ({"kind": "edm", "p_mean": "0"}, "p_mean must be a finite number, not '0'"),
        ({"kind": "shortcut", "max_steps": [4]}, r"max_steps must be a whole number, not \(4,\)"),
        ({"kind": "unet", "channels": 8}, "channels must be a tuple, each a whole number, not 8"),
        ({"kind": "unet", "channels": [8, "8"]}, "channels must be a tuple, each a whole number, not"),
        ({"kind": "framepack", "packing": [[1]]}, "packing must be a tuple, each a tuple of 2, not"),
        ({"kind": "vp", "schedule": ["linear"]}, "schedule must be 'linear' or 'cosine' or 'sigmoid', not"),
        ({"kind": "denoising", "denoiser": {"kind": "ddim"}}, "denoiser must be a DenoiserConfig, not DDIM"),
    ],
)
def test_values_of_another_type_are_refused_by_the_name_of_the_setting(values, message):
    with pytest.raises(ConfigError, match=message):
        part_from_json(values)


def test_a_whole_number_is_a_number():
    assert DDIM(eta=1).eta == 1


@pytest.mark.parametrize(("backbone", "preset"), PRESETS, ids=":".join)
def test_every_preset_survives_json(backbone, preset):
    config = make_config(backbone, preset)
    written = json.loads(json.dumps(part_to_json(config)))
    assert written["kind"] == config.kind
    assert isinstance(config, type(make_config(backbone)))
    assert part_from_json(written) == config


def test_a_preset_is_made_with_single_settings_replaced():
    assert make_config("denoising", "tiny", sampler=Euler(steps=5)).sampler.steps == 5
    assert make_config("denoising") == make_config("denoising", preset_names("denoising")[0])


def test_unknown_backbones_and_presets_are_refused_with_near_ones():
    with pytest.raises(UnknownNameError, match=r"backbone named 'rsm'. Did you mean 'rssm'"):
        make_config("rsm")
    with pytest.raises(UnknownNameError, match=r"preset of backbone 'denoising' named 'tny'. Did you mean 'tiny'"):
        make_config("denoising", "tny")
    with pytest.raises(ConfigError, match=r"backbone named 'rssm' is registered already, from dreamenv.backbones.rssm"):
        register_backbone("rssm", "another.module")


def test_numbers_of_numpy_become_pythons_own():
    spoon = Spoon(length=np.int64(4), marks=((np.int32(1), 2),))
    assert (type(spoon.length), type(spoon.marks[0][0])) == (int, int)
    assert json.dumps(part_to_json(spoon))
    assert type(DDIM(eta=np.float32(0.5)).eta) is float
    assert DDIM(quantize_x0=np.bool_(True)).quantize_x0 is True


@pytest.mark.parametrize("value", [2**31, 10**30, 10**400, -(10**30), 10**5000], ids=range(5))
@pytest.mark.parametrize("part", [DDIM, Spoon])
def test_numbers_beyond_32_bits_are_refused_with_the_limit(part, value):
    with pytest.raises(ConfigError, match=r"must be a whole number of at most 2147483647, not "):
        part(**{"steps" if part is DDIM else "length": value})


@pytest.mark.parametrize("value", [1e308, 10**400, -(10**40)], ids=range(3))
def test_numbers_beyond_float32_are_refused_with_the_limit(value):
    with pytest.raises(ConfigError, match=r"eta must be a finite number of at most 3.4"):
        DDIM(eta=value)
