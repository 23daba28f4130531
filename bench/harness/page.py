"""One page of a run's results: a table, bars beside the floor and the peers, lines over time.

A file of its own: styles and plots are inside it, nothing is loaded from anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

_WIDTH, _BAR, _LABEL = 560, 20, 130
_COLOURS = ("#2563eb", "#d97706", "#059669", "#9333ea", "#64748b")
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem;
  color: #0f172a; background: #fff; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #e2e8f0;
  vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.met { color: #047857; } .missed { color: #b91c1c; font-weight: 600; }
pre { background: #f1f5f9; padding: .8rem; overflow-x: auto; font-size: 12px; }
svg text { font: 12px system-ui, sans-serif; fill: #0f172a; }
h2 { margin-top: 2.5rem; } .how { color: #475569; }
"""


def write(document: Mapping[str, Any], file: Path) -> None:
    """Write the page of a results document."""
    file.write_text(render(document), encoding="utf-8")


def render(document: Mapping[str, Any]) -> str:
    """Return the page as HTML."""
    figures = document["figures"]
    missed = [figure for figure in figures if figure["met"] is False]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width'>",
        f"<title>Kennel: benchmark of {escape(document['started_at'][:10])}</title>",
        f"<style>{_STYLE}</style>",
        f"<h1>Kennel: benchmark of {escape(document['started_at'][:10])}</h1>",
        _about(document),
        _missed(missed),
        "<h2>All figures</h2>",
        _table(figures),
        *(_figure(figure) for figure in figures if figure["value"] is not None),
    ]
    return "\n".join(part for part in parts if part)


def _about(document: Mapping[str, Any]) -> str:
    rows = [
        ("Kind of run", f"{document['size']}, {document['seconds'] / 60:.0f} minutes"),
        ("Machine", _pairs(document["machine"])),
        ("Versions", _pairs(document["versions"])),
        ("PostgreSQL", _pairs(document["settings"])),
    ]
    if document["missing"]:
        rows.append(("Not there", _pairs(document["missing"])))
    body = "".join(f"<tr><th>{escape(k)}<td>{escape(v)}" for k, v in rows)
    return f"<table>{body}</table>"


def _pairs(values: Mapping[str, Any]) -> str:
    return "; ".join(f"{key} {value}" for key, value in values.items())


def _missed(missed: Sequence[Mapping[str, Any]]) -> str:
    if not missed:
        return "<p class=met>Every goal is met.</p>"
    parts = [f"<h2>Goals not met: {len(missed)}</h2>"]
    for figure in missed:
        parts.append(
            f"<h3 id='missed-{escape(figure['name'])}'>{escape(figure['name'])}</h3>"
            f"<p class=missed>{escape('; '.join(figure['shortfalls']))}</p>"
            f"<p class=how>{escape(figure['how'])}</p>"
        )
        why = figure["profile"] or "No profile was taken of this figure."
        parts.append(f"<pre>{escape(why)}</pre>")
    return "\n".join(parts)


def _table(figures: Sequence[Mapping[str, Any]]) -> str:
    rows = ["<table><tr><th>figure<th>value<th>goal<th>met<th>floor<th>of the floor<th>peers"]
    for figure in figures:
        met = {True: "<td class=met>met", False: "<td class=missed>not met", None: "<td>"}
        share = figure["share_of_floor"]
        peers = ", ".join(f"{name} {_number(n)}" for name, n in figure["peers"].items())
        rows.append(
            f"<tr><td>{escape(figure['name'])}"
            f"<td class=number>{_number(figure['value'])} {escape(figure['unit'])}"
            f"<td>{escape(figure['goal'] or '')}{met[figure['met']]}"
            f"<td class=number>{_number(figure['floor'])}"
            f"<td class=number>{'' if share is None else f'{share:.0%}'}<td>{escape(peers)}"
        )
    return "\n".join(rows) + "</table>"


def _figure(figure: Mapping[str, Any]) -> str:
    parts = [f"<h2>{escape(figure['name'])}</h2><p class=how>{escape(figure['how'])}</p>"]
    bars = {"kennel": figure["value"], "floor": figure["floor"], **figure["peers"]}
    bars = {label: value for label, value in bars.items() if value is not None}
    if len(bars) > 1:
        parts.append(_bars(bars, figure["unit"]))
    if figure["series"]:
        parts.append(_lines(figure["series"]))
    if figure["detail"]:
        parts.append(f"<p>{escape(_detail(figure['detail']))}</p>")
    if len(figure["runs"]) > 1:
        parts.append(f"<p>runs: {', '.join(_number(run) for run in figure['runs'])}</p>")
    return "\n".join(parts)


def _detail(detail: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{key} {_number(value) if isinstance(value, int | float) else value}"
        for key, value in detail.items()
    )


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _bars(values: Mapping[str, float], unit: str) -> str:
    most = max(values.values()) or 1
    height = len(values) * (_BAR + 6)
    rows = []
    for place, (label, value) in enumerate(values.items()):
        y = place * (_BAR + 6)
        width = max(1.0, value / most * (_WIDTH - _LABEL - 130))
        rows.append(
            f"<text x=0 y={y + 15}>{escape(label)}</text>"
            f"<rect x={_LABEL} y={y} width={width:.1f} height={_BAR} fill='{_colour(place)}'/>"
            f"<text x={_LABEL + width + 6:.1f} y={y + 15}>{_number(value)} {escape(unit)}</text>"
        )
    return f"<svg width={_WIDTH} height={height} role=img>{''.join(rows)}</svg>"


def _lines(series: Sequence[Mapping[str, Any]]) -> str:
    height = 220
    most_x = max((x for line in series for x, _ in line["points"]), default=1) or 1
    most_y = max((y for line in series for _, y in line["points"]), default=1) or 1
    parts = []
    for place, line in enumerate(series):
        points = " ".join(
            f"{50 + x / most_x * (_WIDTH - 60):.1f},{height - 20 - y / most_y * (height - 40):.1f}"
            for x, y in line["points"]
        )
        parts.append(
            f"<polyline points='{points}' fill=none stroke='{_colour(place)}' stroke-width=2 />"
            f"<text x={60 + place * 120} y=12 style='fill:{_colour(place)}'>"
            f"{escape(line['label'])}</text>"
        )
    axes = (
        f"<text x=0 y=24>{_number(most_y)}</text><text x=0 y={height - 20}>0</text>"
        f"<text x={_WIDTH - 40} y={height - 4}>{_number(most_x)}</text>"
        f"<line x1=50 y1={height - 20} x2={_WIDTH - 10} y2={height - 20} stroke='#94a3b8'/>"
    )
    return f"<svg width={_WIDTH} height={height} role=img>{axes}{''.join(parts)}</svg>"


def _colour(place: int) -> str:
    return _COLOURS[place % len(_COLOURS)]
