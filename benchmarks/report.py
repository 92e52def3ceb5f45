"""One self-contained HTML report: facts, a table, curves, frames of reality and dream, videos.

Images and videos are embedded, so that the file can be moved, mailed and opened without a network.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from dreamenv.storage import write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Page", "Picture", "Section", "Strips", "Table", "Video", "picture_of", "write_page"]

Frames = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text under a header, all but the first column flush right; on a narrow screen each row is a block.

    Attributes:
        header: names of the columns.
        rows: of cells.
        emphasised: numbers of the rows in bold.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    emphasised: Sequence[int] = ()

    def to_html(self) -> str:
        """Return a table element."""
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in self.header)
        body = "".join(
            f"<tr{' class=strong' if index in self.emphasised else ''}>"
            + "".join(
                f"<td data-name='{html.escape(name, quote=True)}'>{html.escape(cell)}</td>"
                for name, cell in zip(self.header, row, strict=True)
            )
            + "</tr>"
            for index, row in enumerate(self.rows)
        )
        return f"<table class=data><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An SVG drawing with a caption."""

    svg: str
    caption: str

    def to_html(self) -> str:
        """Return a figure element."""
        return f"<figure class=plot>{self.svg}<figcaption>{html.escape(self.caption)}</figcaption></figure>"


@dataclass(frozen=True, kw_only=True)
class Strips:
    """Rows of frames at the same steps: name -> (n, h, w, c) uint8, one per step."""

    steps: Sequence[int]
    rows: Sequence[tuple[str, Frames]]
    caption: str

    def to_html(self) -> str:
        """Return a figure with one labelled row per sequence."""
        head = "<tr><th></th>" + "".join(f"<th>step {step}</th>" for step in self.steps) + "</tr>"
        body = "".join(
            f"<tr><th>{html.escape(name)}</th>" + "".join(f"<td>{_image(frame)}</td>" for frame in frames) + "</tr>"
            for name, frames in self.rows
        )
        caption = f"<figcaption>{html.escape(self.caption)}</figcaption>"
        return f"<figure><table class=strip>{head}{body}</table>{caption}</figure>"


@dataclass(frozen=True, kw_only=True)
class Video:
    """An mp4 on disk, embedded."""

    path: Path
    caption: str

    def to_html(self) -> str:
        """Return a figure with a looping player."""
        data = base64.b64encode(self.path.read_bytes()).decode()
        return (
            "<figure class=video><video autoplay loop muted playsinline controls "
            f'src="data:video/mp4;base64,{data}"></video><figcaption>{html.escape(self.caption)}</figcaption></figure>'
        )


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading, a sentence or two, and the content below them."""

    title: str
    text: str = ""
    parts: Sequence[Table | Picture | Strips | Video] = ()


@dataclass(frozen=True, kw_only=True)
class Page:
    """The whole report; the verdict, if there is one, stands out below the lead."""

    title: str
    lead: str
    verdict: str = ""
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section] = field(default_factory=tuple)


def write_page(path: Path, page: Page) -> Path:
    """Write the page, atomically.

    Raises:
        StorageError: the disk refused.
    """
    facts = "".join(f"<div><dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd></div>" for k, v in page.facts)
    sections = "".join(
        f"<section><h2>{html.escape(section.title)}</h2>"
        + (f"<p>{html.escape(section.text)}</p>" if section.text else "")
        + f"<div class=parts>{''.join(part.to_html() for part in section.parts)}</div></section>"
        for section in page.sections
        if section.text or section.parts
    )
    title = html.escape(page.title)
    verdict = f"<p class=verdict>{html.escape(page.verdict)}</p>" if page.verdict else ""
    text = (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>{title}</title><style>{_STYLE}</style><body><header><h1>{title}</h1><p>{html.escape(page.lead)}</p>"
        f"{verdict}<dl>{facts}</dl></header><main>{sections}</main></body></html>\n"
    )
    write_file(path, text.encode())
    return path


def picture_of(figure: Figure, caption: str) -> Picture:
    """Turn a matplotlib figure into an embedded drawing, and close it."""
    from matplotlib import pyplot as plt

    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", transparent=True)
    plt.close(figure)
    text = buffer.getvalue()
    return Picture(svg=text[text.index("<svg") :], caption=caption)


def _image(frame: Frames) -> str:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "PNG")
    return f'<img src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


_STYLE = """
:root { --ink: #1b1f24; --soft: #5a6470; --line: #d9dee4; --paper: #fbfbf9; --accent: #1f6f8b; }
body { margin: 0 auto; max-width: 1040px; padding: 2rem 1.5rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
* { box-sizing: border-box; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .3rem; padding-top: .8rem; border-top: 1px solid var(--line); }
header > p, section > p { max-width: 46rem; color: var(--soft); margin: .2rem 0 1rem; }
header > p.verdict { color: var(--ink); border-left: 3px solid var(--accent); padding: .2rem 0 .2rem .9rem; }
dl { display: flex; flex-wrap: wrap; gap: .5rem 2rem; margin: 1rem 0 0; }
dt { font-size: .78rem; color: var(--soft); } dd { margin: 0; font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .38rem .9rem .38rem 0; border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--soft); font-size: .88rem; }
td:not(:first-child) { text-align: right; } th:not(:first-child) { text-align: right; }
tr.strong td { font-weight: 700; color: var(--accent); }
.parts { display: flex; flex-wrap: wrap; gap: 1.4rem; align-items: flex-start; }
figure { margin: 0; min-width: 0; max-width: 100%; }
figcaption { color: var(--soft); font-size: .85rem; max-width: 46rem; margin-top: .3rem; }
figure.plot svg { width: 30rem; max-width: 100%; height: auto; }
figure.video video { width: 22rem; max-width: 100%; image-rendering: pixelated; border-radius: 4px; background: #000; }
table.strip th, table.strip td { border: 0; padding: .15rem .3rem .15rem 0; text-align: left; }
table.strip img { width: 100%; max-width: 128px; image-rendering: pixelated; display: block; border-radius: 2px; }
@media (max-width: 40rem) {
  body { padding: 1.2rem 1rem 3rem; } h1 { font-size: 1.45rem; overflow-wrap: anywhere; }
  table.data, table.data tbody, table.data tr, table.data td { display: block; width: 100%; }
  table.data thead { display: none; }
  table.data tr { padding: .5rem 0; border-bottom: 1px solid var(--line); }
  table.data td { border: 0; padding: .08rem 0; }
  table.data td:not(:first-child) { display: flex; justify-content: space-between; gap: 1rem; }
  table.data td:not(:first-child)::before { content: attr(data-name); color: var(--soft); font-weight: 400; }
  table.strip { table-layout: fixed; width: 100%; } table.strip th { font-size: .68rem; overflow-wrap: normal; }
  table.strip th, table.strip td { padding-right: .15rem; }
  figure.video, figure.video video { width: 100%; }
}
"""
