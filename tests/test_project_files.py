"""What outsiders look at first agrees with the package: version, Python versions, tools, changelog, citation."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest
import yaml

import dreamenv

ROOT = Path(__file__).resolve().parents[1]
GITHUB = ROOT / ".github"


def read_yaml(path: Path) -> dict:
    return yaml.safe_load(path.read_text())


@pytest.fixture(scope="module")
def config() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def test_the_changelog_has_one_heading_for_this_version_and_each_kind_of_change_once(config):
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[(.+?)\]", text, re.MULTILINE)
    assert next(name for name in versions if name != "Unreleased") == config["metadata"]["version"]
    assert "Unreleased" not in versions[1:]
    assert len(set(versions)) == len(versions)
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        kinds = re.findall(r"^### (.+)$", section, re.MULTILINE)
        assert len(set(kinds)) == len(kinds)
        assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_citation_is_of_this_version(config):
    citation = read_yaml(ROOT / "CITATION.cff")
    assert citation["version"] == config["metadata"]["version"] == dreamenv.__version__
    assert citation["license"] == config["metadata"]["license"]
    urls = dict(line.split(" = ") for line in config["metadata"]["project_urls"].strip().splitlines())
    assert citation["repository-code"] == urls["Repository"]
    assert {"Documentation", "Changelog", "Issues"} < set(urls)


def test_every_python_version_that_is_named_is_tested(config):
    named = set(re.findall(r"Python :: (3\.\d+)", config["metadata"]["classifiers"]))
    (job,) = read_yaml(GITHUB / "workflows" / "ci.yml")["jobs"].values()
    assert set(job["strategy"]["matrix"]["python"]) == named
    oldest = min(named, key=lambda version: tuple(map(int, version.split("."))))
    assert config["options"]["python_requires"] == f">={oldest}"
    assert any(step.get("run") == ".ci/run" for step in job["steps"])


def test_what_is_committed_is_checked_by_the_ruff_of_the_tests():
    hooks = {entry["repo"].split("/")[-1]: entry for entry in read_yaml(ROOT / ".pre-commit-config.yaml")["repos"]}
    version = re.search(r"^ruff==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert version is not None
    assert hooks["ruff-pre-commit"]["rev"] == f"v{version.group(1)}"


@pytest.mark.parametrize("name", ["bug_report", "feature_request"])
def test_an_issue_form_has_what_github_asks_of_it(name):
    form = read_yaml(GITHUB / "ISSUE_TEMPLATE" / f"{name}.yml")
    assert form["name"]
    assert form["description"]
    fields = [field["id"] for field in form["body"]]
    assert len(set(fields)) == len(fields)
    assert all(field["attributes"]["label"] for field in form["body"])
