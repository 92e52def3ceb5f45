"""The package installs as itself alone, imports lightly, keeps its layers, says what it offers, and never pickles."""

from __future__ import annotations

import ast
import configparser
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOP_LEVEL = ("agents", "envs", "benchmarks")

LAYERS = (
    {
        "action_layout",
        "allocator",
        "checks",
        "devices",
        "errors",
        "extras",
        "lazy",
        "parts",
        "randomness",
        "shipped",
        "signals",
        "supervisor",
        "tensordicts",
        "text",
    },
    {"capabilities", "presets", "version", "world_model"},
    {"frames", "locks", "storage"},
    {"data", "envs", "nn"},
    {"codecs", "diffusion", "heads"},
    {"denoisers"},
    {"backbones"},
    {"dream", "folders", "metrics", "model_card", "testing", "training", "world", "world_files"},
    {"agents", "compression", "importers"},
    {"__main__", "benchmarks", "cli", "commands"},
)
NEVER_A_BACKBONE = {"agents", "dream", "metrics", "training", "world"}


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def sources() -> dict[str, Path]:
    """Every module of the package by its installed name."""
    found = {}
    for folder in ("dreamenv", *TOP_LEVEL):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            parts = parts if folder == "dreamenv" else ("dreamenv", *parts)
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


SOURCES = sources()
MODULES = [name for name in SOURCES if not any(part.startswith("_") for part in name.split("."))]


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module imported anywhere in a file, at any depth; `from a import b` counts as a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def test_every_folder_of_modules_is_listed_in_setup_cfg() -> None:
    listed = set(setup_cfg()["options"]["packages"].split())
    folders = {name for name, path in SOURCES.items() if path.name == "__init__.py"}
    assert listed == folders
    without_init = {str(path.parent) for path in SOURCES.values() if not (path.parent / "__init__.py").exists()}
    assert not without_init


def test_the_three_top_level_folders_are_installed_under_dreamenv() -> None:
    mapping = dict(line.split(" = ") for line in setup_cfg()["options"]["package_dir"].strip().splitlines())
    assert mapping == {"dreamenv": "dreamenv", **{f"dreamenv.{name}": name for name in TOP_LEVEL}}


def test_nothing_is_imported_under_a_bare_top_level_name() -> None:
    files = [*SOURCES.values(), *(ROOT / "tests").rglob("*.py")]
    bare = [f"{path}:{line}" for path in files for name, line in imports(path) if name.split(".")[0] in TOP_LEVEL]
    assert not bare


def test_every_requirement_and_every_extra_of_the_checks_has_a_tested_version() -> None:
    def names(text: str) -> set[str]:
        lines = (line.split("#")[0].strip() for line in text.splitlines())
        return {line.split()[0].split("[")[0].split("=")[0].lower().replace("_", "-") for line in lines if line}

    config = setup_cfg()
    extras = config["options.extras_require"]
    wanted = {name for text in (config["options"]["install_requires"], *extras.values()) for name in names(text)}
    pinned = names((ROOT / "constraints.txt").read_text())
    assert wanted - {"dreamenv"} <= pinned


def layer(module: str) -> int | None:
    """The place of dreamenv.<part>.… in the order of imports."""
    parts = module.split(".")
    part = parts[1] if len(parts) > 1 else ""
    return next((place for place, names in enumerate(LAYERS) if part in names), None)


def test_every_module_has_a_layer() -> None:
    assert [name for name in SOURCES if name != "dreamenv" and layer(name) is None] == []


@pytest.mark.parametrize("module", [name for name in SOURCES if name != "dreamenv"])
def test_a_module_imports_only_from_its_own_layer_or_below(module: str) -> None:
    own = layer(module)
    assert own is not None
    part = module.split(".")[1]
    for name, line in imports(SOURCES[module]):
        if not name.startswith("dreamenv."):
            continue
        target, where = name.split(".")[1], f"{SOURCES[module]}:{line}"
        place = layer(name)
        assert place is not None, f"{where} imports {name} from the package's own __init__: name the module"
        assert place <= own, f"{where} imports {name}, which lies above {part}"
        assert not (part in NEVER_A_BACKBONE and target == "backbones"), f"{where} imports a backbone"


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Wherever an import stands, in a function or under TYPE_CHECKING: what is left can be read from the ground up."""

    def target(name: str) -> str:
        return name if name in SOURCES else name.rpartition(".")[0]

    wanted = {
        module: {target(name) for name, _ in imports(path)} & set(SOURCES) - {module}
        for module, path in SOURCES.items()
    }
    while free := {module for module, others in wanted.items() if not others & set(wanted)}:
        wanted = {module: others for module, others in wanted.items() if module not in free}
    circles = {module: sorted(others & set(wanted)) for module, others in wanted.items()}
    assert circles == {}


def test_no_file_is_longer_than_four_hundred_lines() -> None:
    lines = {name: len(path.read_text().splitlines()) for name, path in SOURCES.items()}
    assert {name: count for name, count in lines.items() if count > 400} == {}


def test_no_configuration_has_more_than_twenty_settings() -> None:
    """Every frozen dataclass of settings; those with more are several parts in one."""
    fields = {
        f"{name}.{node.name}": sum(isinstance(line, ast.AnnAssign) for line in node.body)
        for name, path in SOURCES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(one) for one in node.decorator_list)
    }
    assert {name: count for name, count in fields.items() if count > 20} == {}


def test_importing_dreamenv_registers_the_ids_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, gymnasium\n"
        "import dreamenv\n"
        "heavy = {'torch', 'tensordict', 'stable_baselines3', 'vizdoom', 'minari', 'pyarrow', 'scipy', 'matplotlib',\n"
        "         'pygame', 'av', 'huggingface_hub', 'tyro'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "print(sorted(name for name in gymnasium.registry if name.startswith('dreamenv/')))\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy, ids = answer.stdout.splitlines()
    assert heavy == "[]"
    for name in ("Dream-v0", "VizdoomTakeCover-v0", "VizdoomMyWayHome-v0", "VizdoomHealthGathering-v0"):
        assert f"'dreamenv/{name}'" in ids


def test_a_dream_is_made_stepped_and_restarted_without_the_compiler() -> None:
    code = (
        "import sys, warnings, gymnasium\n"
        "env = gymnasium.make('dreamenv:dreamenv/Dream-v0', horizon=2)\n"
        "env.reset(seed=0)\n"
        "[env.step(0) for _ in range(2)]\n"
        "env.reset(seed=1)\n"
        "print(sorted({'torch._dynamo', 'torch._inductor', 'sympy', 'stable_baselines3'} & set(sys.modules)))\n"
        "import torch._dynamo\n"
        "print(torch._dynamo.trace_rules.is_callable_allowed(torch._C._functorch._add_batch_dim))\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines() == ["[]", "True"]  # what tensordict tells the compiler is told when it comes


@pytest.mark.parametrize("module", MODULES)
def test_a_public_module_offers_exactly_its_all(module: str) -> None:
    source = SOURCES[module]
    tree = ast.parse(source.read_text())
    assert ast.get_docstring(tree), f"{source} does not say what it is"
    imported = importlib.import_module(module)
    offered = getattr(imported, "__all__", None)
    defined = {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_")
    }
    if source.name == "__init__.py" and offered is None:
        assert not defined
        return
    assert offered is not None, f"{source} has no __all__"
    assert [name for name in offered if not hasattr(imported, name)] == []
    assert defined <= set(offered)
    assert len(set(offered)) == len(offered)


# What others publish is read and written in the form it has there: pickle's error is caught, tensors are saved.
PUBLISHED = {
    "dreamenv.importers.checkpoints": {"pickle"},
    "dreamenv.importers.importing": {"torch.save"},
    "dreamenv.importers.starts": {"pickle"},
}


@pytest.mark.parametrize("module", list(SOURCES))
def test_nothing_is_pickled(module: str) -> None:
    source = SOURCES[module]
    picklers = {"cloudpickle", "dill", "joblib", "pickle", "shelve"} - PUBLISHED.get(module, set())
    assert [f"{source}:{line}" for name, line in imports(source) if name.split(".")[0] in picklers] == []
    for node in ast.walk(ast.parse(source.read_text())):
        if not isinstance(node, ast.Call):
            continue
        call, keywords = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
        where = f"{source}:{node.lineno}"
        assert call != "torch.save" or call in PUBLISHED.get(module, set()), f"{where} pickles; use safetensors"
        assert call != "torch.load" or keywords.get("weights_only") == "True", f"{where} unpickles"
        assert keywords.get("allow_pickle", "False") == "False", f"{where} unpickles"


def test_an_unknown_attribute_of_the_package_is_refused_with_the_known_names() -> None:
    import dreamenv

    with pytest.raises(AttributeError, match=r"no attribute 'Wrld'.*World"):
        dreamenv.Wrld  # noqa: B018
    assert set(dreamenv.__all__) <= set(dir(dreamenv))


def test_every_package_that_is_imported_is_required() -> None:
    from importlib.metadata import packages_distributions

    config, installed = setup_cfg(), packages_distributions()
    optional = {
        line.split()[0].split("[")[0]
        for text in config["options.extras_require"].values()
        for line in text.split("\n")
        if line.strip()
    }
    required = {line.split()[0].split("[")[0] for line in config["options"]["install_requires"].strip().splitlines()}
    allowed = {name.lower().replace("_", "-") for name in required | optional}
    for path in SOURCES.values():
        for name, line in imports(path):
            top = name.split(".")[0]
            if top in sys.stdlib_module_names or top == "dreamenv":
                continue
            owners = {owner.lower().replace("_", "-") for owner in installed.get(top, [top])}
            assert owners & allowed, f"{path}:{line} imports {top}, which setup.cfg does not name"
