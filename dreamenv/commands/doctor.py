"""``dreamenv doctor``: check what can run on this machine, and name the commands that fix the rest."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

from packaging.requirements import Requirement

from dreamenv.commands.arguments import parse
from dreamenv.errors import UnavailableError

__all__ = [
    "Doctor",
    "Finding",
    "check_devices",
    "check_extras",
    "check_packages",
    "check_real_environments",
    "check_worlds",
    "has_display",
    "main",
]


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Check what can run on this machine: packages, devices, worlds and real environments."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check.

    Attributes:
        name: what was checked.
        ok: whether it works here.
        detail: its version, or the problem.
        remedy: the command that fixes it; empty if it works, or if none is known.
        required: whether dreamenv needs it.
    """

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    required: bool = True


def main(arguments: Sequence[str]) -> None:
    """Run the command; the exit status is 1 if something that dreamenv needs does not work."""
    parse(Doctor, arguments, name="doctor")
    print(f"dreamenv {importlib.metadata.version('dreamenv')}, Python {platform.python_version()} at {sys.executable}")
    sections = (
        ("packages", check_packages()),
        ("devices", check_devices()),
        ("worlds", check_worlds()),
        ("real environments", check_real_environments()),
        ("optional", check_extras()),
    )
    failed = False
    for title, findings in sections:
        print(f"\n{title}")
        for finding in findings:
            mark = "ok" if finding.ok else "FAILS" if finding.required else "-"
            print(f"  {mark:<6}{finding.name:<32}{finding.detail}", flush=True)
            if finding.remedy:
                print(f"{'':<8}make it run: {finding.remedy}")
            failed |= finding.required and not finding.ok
    if failed:
        sys.exit(1)


def check_packages() -> Iterator[Finding]:
    """Compare every required package with the versions dreamenv takes."""
    for requirement in _requirements(extra=None):
        yield _package(requirement)


def check_extras() -> Iterator[Finding]:
    """Check optional dependencies: extras, and a display for ``dreamenv play``."""
    extras = importlib.metadata.metadata("dreamenv").get_all("Provides-Extra") or []
    for extra in sorted(set(extras) - {"all", "dev", "docs"}):
        packages = [_package(requirement) for requirement in _requirements(extra=extra)]
        missing = [package for package in packages if not package.ok]
        if packages:
            yield Finding(
                name=extra,
                ok=not missing,
                detail=", ".join(f"{package.name} {package.detail}" for package in packages),
                remedy=f"pip install 'dreamenv[{extra}]'" if missing else "",
                required=False,
            )
    display = has_display()
    yield Finding(
        name="a window for `dreamenv play`",
        ok=display,
        detail="there is a display" if display else "no display; `dreamenv play --headless` writes a video instead",
        required=False,
    )


def check_devices() -> Iterator[Finding]:
    """List torch's devices and their memory."""
    import torch

    memory = f", {_gib(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES'))} memory" if _has_sysconf() else ""
    yield Finding(name="cpu", ok=True, detail=f"{torch.get_num_threads()} threads of {os.cpu_count()} cores{memory}")
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        yield Finding(name=f"cuda:{index}", ok=True, detail=f"{facts.name}, {_gib(facts.total_memory)}")
    if torch.backends.mps.is_available():
        yield Finding(name="mps", ok=True, detail="Apple silicon")


def check_worlds() -> Iterator[Finding]:
    """Load every world that ships in the package, and dream one step in it."""
    from dreamenv.shipped import DEFAULT_WORLD, shipped_worlds

    for name in sorted({DEFAULT_WORLD, *shipped_worlds()}):
        try:
            from dreamenv.dream import DreamEnv

            env = DreamEnv(name)
            env.reset(seed=0)
            env.step(env.action_space.sample())
            env.close()
        except Exception as error:
            yield Finding(name=name, ok=False, detail=_first_line(error), remedy=_REINSTALL)
        else:
            yield Finding(name=name, ok=True, detail=f"dreams, {env.observation_space}")


def check_real_environments() -> Iterator[Finding]:
    """Check every real environment; start those that start quickly, and take one step."""
    from dreamenv.envs import FAMILIES, make_real

    for family in FAMILIES:
        for name, task in family.tasks.items():
            missing = family.missing_for(name)
            if missing is not None:
                yield Finding(name=name, ok=False, detail=missing.what, remedy=missing.remedy, required=False)
                continue
            if not family.quick:
                yield Finding(name=name, ok=True, detail=f"{family.title} is here")
                continue
            try:
                with closing(make_real(name, **task.example_arguments)) as env:
                    env.reset(seed=0)
                    env.step(env.action_space.sample())
            except UnavailableError as error:  # shows only at the start, such as a driver that cannot render
                yield Finding(name=name, ok=False, detail=error.what, remedy=error.remedy, required=False)
            except Exception as error:
                yield Finding(name=name, ok=False, detail=_first_line(error), required=False)
            else:
                given = "".join(f", {key}={value!r}" for key, value in task.example_arguments.items())
                yield Finding(name=name, ok=True, detail=f"runs, {env.action_space}{given}")


def has_display() -> bool:
    """Tell whether a window can be opened."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


_REINSTALL = "pip install --force-reinstall --no-deps dreamenv"


def _requirements(extra: str | None) -> list[Requirement]:
    """The package's own requirements, or those that an extra adds."""
    every = [Requirement(line) for line in importlib.metadata.requires("dreamenv") or []]
    if extra is None:
        return [requirement for requirement in every if not requirement.marker or requirement.marker.evaluate()]
    return [
        requirement
        for requirement in every
        if requirement.marker and not requirement.marker.evaluate() and requirement.marker.evaluate({"extra": extra})
    ]


def _package(requirement: Requirement) -> Finding:
    wanted = f"{requirement.name}{requirement.specifier}"
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name=requirement.name, ok=False, detail="is missing", remedy=f"pip install '{wanted}'")
    if not requirement.specifier.contains(version, prereleases=True):
        detail = f"{version} does not satisfy {requirement.specifier}"
        return Finding(name=requirement.name, ok=False, detail=detail, remedy=f"pip install '{wanted}'")
    return Finding(name=requirement.name, ok=True, detail=version)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _has_sysconf() -> bool:
    return "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {})


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
