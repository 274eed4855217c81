"""Figures, tables and where they come from, as one HTML page that needs nothing else.

The page loads nothing: pictures and style are inside it, and its content policy forbids the rest.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from string import Template
from typing import TYPE_CHECKING, Any

from thc_dask.plot import render

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

OPEN_ROWS = 40
"""A table with more rows is folded away until the reader opens it."""


@dataclass(frozen=True)
class Section:
    """One part of a report; what is empty is left out."""

    heading: str
    """Its title, also in the table of contents."""
    text: Sequence[str] = ()
    """Paragraphs."""
    figure: Figure | None = None
    """A picture."""
    caption: str = ""
    """What the picture shows, below it."""
    alt: str = ""
    """What a reader who cannot see the picture should know; the caption if empty."""
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """Tables by their captions."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Keys and values, for instance the provenance."""
    notes: Sequence[str] = ()
    """How the numbers of this section were obtained."""
    png: bytes | None = None
    """The picture as a PNG file, if it has been drawn already."""


def render_report(title: str, sections: Sequence[Section], subtitle: str = "") -> str:
    """Return one HTML page: title, table of contents, and the sections in their order.

    Parameters
    ----------
    title, subtitle
        Plain text; everything that goes into the page is escaped.
    sections
        What to show.

    Returns
    -------
    str
        The page, to be written as UTF-8.

    Examples
    --------
    >>> page = render_report("A & B", [Section("Counts", text=["None < some."])])
    >>> "A &amp; B" in page, "None &lt; some." in page
    (True, True)
    """
    anchors = [f"s{i}-{_slug(section.heading)}" for i, section in enumerate(sections, 1)]
    contents = "".join(
        f'<li><a href="#{anchor}">{escape(section.heading)}</a></li>'
        for anchor, section in zip(anchors, sections, strict=True)
    )
    return PAGE.substitute(
        style=STYLE,
        title=escape(title),
        subtitle=f'<p class="subtitle">{escape(subtitle)}</p>' if subtitle else "",
        contents=f'<nav aria-label="Contents"><ol>{contents}</ol></nav>' if contents else "",
        body="\n".join(
            _section_html(section, anchor)
            for section, anchor in zip(sections, anchors, strict=True)
        ),
    )


def table_html(frame: pd.DataFrame, caption: str) -> str:
    """Return the table with its caption; folded away if it has more than ``OPEN_ROWS`` rows.

    Columns of whole numbers are grouped by thousands, other numbers have four significant digits,
    and what is not known is a dash. A named index becomes columns.

    Parameters
    ----------
    frame
        Any table.
    caption
        Its title, plain text.

    Examples
    --------
    >>> import pandas as pd
    >>> "<td class=n>1,200</td>" in table_html(pd.DataFrame({"voxels": [1200]}), "Counts")
    True
    """
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    if any(name is not None for name in frame.index.names):
        frame = frame.reset_index()
    numeric = [is_numeric_dtype(kind) and not is_bool_dtype(kind) for kind in frame.dtypes]
    head = "".join(
        f"<th scope=col{' class=n' if number else ''}>{escape(str(name))}</th>"
        for name, number in zip(frame.columns, numeric, strict=True)
    )
    columns = [_cells(frame.iloc[:, i], number) for i, number in enumerate(numeric)]
    rows = "".join(f"<tr>{''.join(row)}</tr>" for row in zip(*columns, strict=True))
    title = escape(caption)
    table = (
        f'<div class=scroll tabindex=0 role=region aria-label="{title}"><table>'
        f"<caption>{title}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody>"
        "</table></div>"
    )
    if len(frame) <= OPEN_ROWS:
        return table
    return f"<details><summary>{title} ({len(frame):,} rows)</summary>{table}</details>"


def _figure_html(figure: Figure, png: bytes | None, caption: str, alt: str) -> str:
    """Return the figure as a picture inside the page, 100 px an inch or as wide as the page."""
    width, height = (round(100 * inches) for inches in figure.get_size_inches())
    data = base64.b64encode(png or render(figure, "png")).decode("ascii")
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure><img alt="{escape(alt)}" width="{width}" height="{height}" '
        f'src="data:image/png;base64,{data}">{below}</figure>'
    )


def _section_html(section: Section, anchor: str) -> str:
    parts = [f'<section id="{anchor}"><h2>{escape(section.heading)}</h2>']
    parts += [f"<p>{escape(paragraph)}</p>" for paragraph in section.text]
    if section.figure is not None:
        alt = section.alt or section.caption or section.heading
        parts.append(_figure_html(section.figure, section.png, section.caption, alt))
    parts += [table_html(frame, caption) for caption, frame in section.tables.items()]
    if section.facts:
        parts.append(_facts_html(section.heading, section.facts))
    if section.notes:
        items = "".join(f"<li>{escape(note)}</li>" for note in section.notes)
        parts.append(f"<aside><h3>How these numbers were obtained</h3><ul>{items}</ul></aside>")
    return "\n".join([*parts, "</section>"])


def _facts_html(title: str, facts: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><th scope=row>{escape(str(key))}</th><td>{escape(_fact(value))}</td></tr>"
        for key, value in facts.items()
    )
    return (
        f'<div class=scroll><table class=facts aria-label="{escape(title)}">'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _fact(value: Any) -> str:
    nested = isinstance(value, (dict, list, tuple))
    return json.dumps(value, default=str, ensure_ascii=False) if nested else str(value)


def _cells(column: pd.Series[Any], numeric: bool) -> list[str]:
    """Return one column's cells; where all are whole they are written without a point."""
    whole = numeric and bool((column.dropna() % 1 == 0).all())
    return [
        '<td class=n title="not known">&ndash;</td>'
        if missing
        else f"<td class=n>{_number(value, whole)}</td>"
        if numeric
        else f"<td>{escape(str(value))}</td>"
        for value, missing in zip(column.tolist(), column.isna(), strict=True)
    ]


def _number(value: float, whole: bool) -> str:
    if math.isinf(value):
        return "&infin;" if value > 0 else "&minus;&infin;"
    if whole:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:#.4g}".rstrip(".")


def _slug(heading: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")


PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>$title</title>
<style>$style</style>
</head>
<body>
<header><h1>$title</h1>$subtitle</header>
$contents
<main>
$body
</main>
</body>
</html>
""")

STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1f2328; --muted: #59636e;
  --line: #d8dde3; --band: #f4f6f8; --link: #0b57a4; }
@media (prefers-color-scheme: dark) { :root { --page: #15181c; --ink: #e6e8eb;
  --muted: #a3adb8; --line: #363c44; --band: #1e2329; --link: #7db8f5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 60rem; background: var(--page);
  color: var(--ink); font: 1rem/1.55 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0; }
h2 { font-size: 1.3rem; margin: 3rem 0 .5rem; border-bottom: 1px solid var(--line);
  padding-bottom: .3rem; }
h3 { font-size: .95rem; margin: 0; } p { max-width: 44rem; } a { color: var(--link); }
.subtitle, figcaption, caption, aside { color: var(--muted); }
nav ol { columns: 16rem; padding-left: 1.4rem; margin: 1.5rem 0 0; }
figure { margin: 1.25rem 0; }
img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
figcaption { font-size: .9rem; margin-top: .5rem; max-width: 44rem; }
.scroll { overflow-x: auto; margin: 1.25rem 0; }
details { margin: 1.25rem 0; } summary { cursor: pointer; color: var(--link); }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .4rem; }
th, td { padding: .3rem .8rem; text-align: left; border-bottom: 1px solid var(--line); }
thead th { border-bottom: 2px solid var(--muted); white-space: nowrap; }
tbody tr:nth-child(even) { background: var(--band); }
.n { text-align: right; white-space: nowrap; }
.facts th { vertical-align: top; white-space: nowrap; }
.facts td { overflow-wrap: anywhere; }
aside { border-left: 3px solid var(--line); padding: .1rem 0 .1rem 1rem; font-size: .9rem;
  margin: 1.25rem 0; max-width: 44rem; }
aside ul { margin: .3rem 0 0; padding-left: 1.1rem; }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } nav { display: none; }
  figure, tr, aside { break-inside: avoid; } h2 { break-after: avoid; }
  .scroll { overflow: visible; } }
"""
