"""The code in the README and the documentation runs, and their links lead somewhere."""

from __future__ import annotations

import dataclasses
import importlib
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from dreamenv import World, presets
from dreamenv.backbones.denoising import presets as denoising_presets
from dreamenv.cli import COMMANDS
from dreamenv.errors import WorldNotFoundError
from dreamenv.metrics import known_objects
from dreamenv.testing import WorldModelContract

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
EVERY_PAGE = [*PAGES, *sorted((ROOT / "docs").glob("*/*.md"))]

# The same code, with less to do. Every rule must still find its text in the README.
SHORTER = {
    r"total_timesteps=400_000": "total_timesteps=64",
    r"num_envs=64, observation=\"latent\"": 'num_envs=4, observation="latent"',
    r"n_steps=64, batch_size=512": "n_steps=16, batch_size=64",
    r"AgentConfig\(total_steps=400_000\)": ("AgentConfig(total_steps=512, num_envs=8, checkpoint_every=0)"),
    r"episodes=100": "episodes=1",
}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def documented() -> Any:
    """The code of the documentation as a module."""
    module = sys.modules["documented"] = types.ModuleType("documented")
    code = "\n".join(blocks(ROOT / "docs" / "add_a_backbone.md", "python"))
    before = dict(presets._BACKBONES)
    exec(compile(code, "add_a_backbone.md", "exec"), module.__dict__)
    presets._BACKBONES.clear()
    presets._BACKBONES.update(before)
    return module


EXAMPLE = documented()


class TestTheDenoiserOfTheDocumentation(WorldModelContract):
    config = dataclasses.replace(denoising_presets.tiny(), denoiser=EXAMPLE.MLPConfig(hidden_size=256))
    overfit_steps = 400


class TestTheBackboneOfTheDocumentation(WorldModelContract):
    config = EXAMPLE.PRESETS["tiny"]()


def test_the_denoiser_of_the_documentation_takes_forty_lines_or_less() -> None:
    code = blocks(ROOT / "docs" / "add_a_backbone.md", "python")[0]
    assert len([line for line in code.splitlines() if line and not line.startswith(("import", "from"))]) <= 40
    assert EXAMPLE.mlp().denoiser == EXAMPLE.MLPConfig()


@pytest.fixture(scope="module")
def default_world() -> World:
    try:
        return World.default()
    except WorldNotFoundError as error:
        pytest.skip(f"the trained world of the package is not in this tree: {error}")


@pytest.mark.parametrize(
    "page",
    [
        page for page in PAGES if blocks(page, "python") and page.name != "add_a_backbone.md"
    ],  # that one is imported above
    ids=lambda page: page.name,
)
def test_the_code_on_a_page_runs(
    page: Path, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(presets, "_BACKBONES", dict(presets._BACKBONES))
    monkeypatch.setattr(known_objects, "_DETECTORS", dict(known_objects._DETECTORS))
    code = "\n".join(blocks(page, "python"))
    if "Dream-v0" in code:
        request.getfixturevalue("default_world")
    for pattern, replacement in SHORTER.items():
        assert page.name != "README.md" or re.search(pattern, code), f"{pattern} is not in the README any more"
        code = re.sub(pattern, replacement, code)
    exec(compile(code, str(page), "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("page", EVERY_PAGE, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_lead_to_files_that_exist(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    missing = [link for link in links if not link.startswith("http") and not (page.parent / link).exists()]
    assert missing == []


def test_the_api_pages_name_existing_modules_and_document_their_all() -> None:
    pages = sorted((ROOT / "docs" / "api").glob("*.md"))
    modules = [name for page in pages for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)]
    assert {"dreamenv.world", "dreamenv.dream", "dreamenv.agents", "dreamenv.envs"} <= set(modules)
    for name in modules:
        assert importlib.import_module(name).__doc__, name
    navigation = (ROOT / "mkdocs.yml").read_text()
    assert [page.name for page in pages if f"api/{page.name}" not in navigation] == []


@pytest.mark.parametrize("page", EVERY_PAGE, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_on_a_page_exist(page: Path) -> None:
    shell = "\n".join(blocks(page, "sh"))
    used = set(re.findall(r"^dreamenv (\w+)", shell, re.MULTILINE))
    assert used <= set(COMMANDS)
    targets = set(re.findall(r"^make ([a-z ]+?)(?: [A-Z].*| *#.*)?$", shell, re.MULTILINE))
    rules = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {word for target in targets for word in target.split()} <= rules
    for module in re.findall(r"python -m dreamenv\.benchmarks\.(\w+)", page.read_text()):
        places = (f"{module}.py", f"{module}/__main__.py")
        assert any((ROOT / "benchmarks" / place).exists() for place in places), module
