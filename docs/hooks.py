"""Puts the benchmarks' results into the site, so that a page's link to one works there as it does in the repository."""

from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_FOLDER = "benchmarks/results/"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add every result to the site's files."""
    for path in sorted((Path(config.docs_dir).parent / _FOLDER).glob("*.json")):
        files.append(File.generated(config, f"results/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Let a page's links to results lead to where the site has them."""
    return markdown.replace(f"../{_FOLDER}", "results/")
