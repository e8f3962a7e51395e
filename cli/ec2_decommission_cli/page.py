"""The report as one HTML page that needs no network: it contains its styles, script and data.

Names and tags come from instances and cannot be trusted. So every value is escaped, and a content security policy
allows only this page's own style and script.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from datetime import UTC, datetime, timedelta
from html import escape
from typing import TYPE_CHECKING, Any

from . import history
from .text import place, time

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_STYLE = """
:root { color-scheme: light dark; --back: #ffffff; --card: #f6f8fa; --text: #1f2328; --dim: #59636e; --line: #d1d9e0;
  --removed: #0969da; --failed: #d1242f; --restored: #1a7f37; }
@media (prefers-color-scheme: dark) { :root { --back: #0d1117; --card: #161b22; --text: #e6edf3; --dim: #9198a1;
  --line: #3d444d; --removed: #4493f8; --failed: #f85149; --restored: #3fb950; } }
body { margin: 0 auto; max-width: 70rem; padding: 1.5rem; background: var(--back); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1rem 0 .2rem; }
p { margin: .3rem 0; } .dim { color: var(--dim); } .failed { color: var(--failed); }
.restored { color: var(--restored); }
.numbers { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1rem 0; }
.numbers div { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .5rem 1rem; }
.numbers b { display: block; font-size: 1.4rem; }
svg { width: 100%; height: 9rem; }
.bar { fill: var(--removed); } .bar-failed { fill: var(--failed); } .axis { stroke: var(--line); }
input { width: 100%; box-sizing: border-box; padding: .5rem; font: inherit; color: inherit; background: var(--card);
  border: 1px solid var(--line); border-radius: .4rem; }
details { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; margin: .5rem 0;
  padding: .5rem 1rem; }
summary { cursor: pointer; display: flex; flex-wrap: wrap; gap: .2rem 1rem; } summary code { font-weight: 600; }
code, td { overflow-wrap: anywhere; } code { font-family: ui-monospace, monospace; font-size: .9em; }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; vertical-align: top;
  border-top: 1px solid var(--line); padding: .3rem .5rem .3rem 0; } th { color: var(--dim); font-weight: 400; }
[hidden] { display: none; }
"""

# A search has a link: report.html#web-1
_SCRIPT = """
const box = document.getElementById("search"), shown = document.getElementById("shown");
const cards = [...document.querySelectorAll("details")];
function search() {
  const words = box.value.toLowerCase().split(/\\s+/).filter(Boolean);
  let count = 0;
  for (const card of cards) {
    card.hidden = !words.every(word => card.dataset.search.includes(word));
    count += !card.hidden;
  }
  shown.textContent = count + " of " + cards.length + " instances";
}
function linked() {
  try { box.value = decodeURIComponent(location.hash.slice(1)); } catch { box.value = ""; }
  search();
}
box.addEventListener("input", search);
addEventListener("hashchange", linked);
linked();
"""


def page(document: Mapping[str, Any]) -> str:
    """The page for the data of ``history.read``."""
    instances = document["instances"]
    removed = sum(len(one["removed"]) for one in instances)
    restored = sum(len(one["restored"]) for one in instances)
    failed = [one for one in instances if history.failures(one)]
    cards = (
        "\n".join(map(_card, instances))
        or "<p>Nothing was removed in this period, and no instance is unfinished.</p>"
    )
    numbers = "".join(
        f"<div><b>{number}</b>{name}</div>"
        for number, name in (
            (len(instances), "instances"),
            (removed, "things removed"),
            (restored, "things restored"),
            (len(failed), "instances with failures"),
        )
    )
    policy = f"default-src 'none'; style-src {_hash(_STYLE)}; script-src {_hash(_SCRIPT)}"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Decommissioned instances, {escape(document["function_name"])}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>Decommissioned instances</h1>
<p class="dim">{escape(document["function_name"])}, {time(document["since"])} to {time(document["until"])}</p>
<div class="numbers">{numbers}</div>
<h2>Timeline</h2>
{_timeline(document)}
<h2>Failures</h2>
{_failures(failed)}
<h2>Instances</h2>
<p><input id="search" type="search" placeholder="Instance id or name" aria-label="Search by instance id or name"></p>
<p class="dim" id="shown" aria-live="polite"></p>
{cards}
<script>{_SCRIPT}</script>
</body>
</html>
"""


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _card(one: Mapping[str, Any]) -> str:
    failures, left = history.failures(one), history.left(one)
    words = " ".join(str(one[key] or "") for key in ("instance_id", "name", "account_id", "region")).lower()
    state = '<span class="failed">failed</span>' if failures else "finished" if one["finished"] else "not finished"
    if one["restored"]:
        state += ', <span class="restored">restored</span>'
    who = _escaped(one, "instance_id")
    summary = (
        f"<summary><code>{who}</code> <b>{_escaped(one, 'name')}</b> <span class='dim'>{escape(place(one))}</span> "
        f"<span class='dim'>ended {escape(time(one['ended']))}</span> "
        f"<span>{len(one['removed'])} removed, {state}</span></summary>"
    )
    parts = [
        f'<details data-search="{escape(words)}" id="{who}"{" open" if failures else ""}>',
        summary,
        _actions("Removed", one["removed"], "Proof"),
        _actions("Restored", one["restored"], "Source"),
        _steps("Left, and why", left),
        _steps("Failed", failures),
        f"<p>Excluded: {_escaped(one, 'excluded')}</p>" if one["excluded"] else "",
        f"<p class='dim'>Last request <code>{_escaped(one, 'request_id')}</code></p>" if one["request_id"] else "",
        "</details>",
    ]
    return "\n".join(filter(None, parts))


def _escaped(holder: Mapping[str, Any], key: str) -> str:
    return escape(str(holder.get(key) or ""))


def _actions(title: str, entries: Sequence[Mapping[str, Any]], why: str) -> str:
    rows = [
        (time(e.get("at")), e.get("step"), e.get("action"), e.get("target"), e.get("proof"), e.get("request_id"))
        for e in entries
    ]
    return _table(title, ("At", "Step", "Action", "Target", why, "Request"), rows)


def _steps(title: str, steps: Iterable[Mapping[str, Any]]) -> str:
    rows = [(step["step"], step.get("error_kind"), step.get("reason")) for step in steps]
    return _table(title, ("Step", "Kind of error", "Reason"), rows)


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{name}</th>" for name in heads)
    body = "\n".join(_row(escape(str(cell or "")) for cell in row) for row in rows)
    return f"<h3>{title}</h3>\n<table><tr>{head}</tr>\n{body}</table>"


def _row(cells: Iterable[str]) -> str:
    """A table row. The cells are HTML."""
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _failures(failed: Sequence[Mapping[str, Any]]) -> str:
    if not failed:
        return "<p>None.</p>"
    rows = []
    for one in failed:
        who = _escaped(one, "instance_id")
        link = f'<a href="#{who}"><code>{who}</code></a> {_escaped(one, "name")}'
        rows += [_row((link, _escaped(step, "step"), _escaped(step, "reason"))) for step in history.failures(one)]
    return "<table><tr><th>Instance</th><th>Step</th><th>Reason</th></tr>\n" + "\n".join(rows) + "</table>"


def _timeline(document: Mapping[str, Any]) -> str:
    """A bar chart per hour, or per day for a longer period: removals, and failed instances at their end."""
    start, end = (datetime.fromisoformat(document[key]).astimezone(UTC) for key in ("since", "until"))
    length = timedelta(hours=1) if end - start <= timedelta(days=3) else timedelta(days=1)
    number = max(1, min(366, -(-(end - start) // length)))
    removed: Counter[int] = Counter()
    failed: Counter[int] = Counter()
    for one in document["instances"]:
        removed.update(_slot(entry.get("at"), start, length, number) for entry in one["removed"])
        if history.failures(one):
            failed[_slot(one["ended"], start, length, number)] += 1
    most = max([*removed.values(), *failed.values(), 1])
    width = 1000 / number
    hours = length < timedelta(days=1)
    bars = []
    for slot in range(number):
        label = (start + slot * length).strftime("%Y-%m-%dT%H:%MZ" if hours else "%Y-%m-%d")
        for style, counts, what in (("bar", removed, "removed"), ("bar-failed", failed, "instances failed")):
            height = 100 * counts[slot] / most
            left = (slot + (0 if counts is removed else 0.45)) * width
            if counts[slot]:
                bars.append(
                    f'<rect class="{style}" x="{left:.1f}" y="{110 - height:.1f}" width="{width * 0.4:.1f}" '
                    f'height="{height:.1f}"><title>{label}: {counts[slot]} {what}</title></rect>'
                )
    return (
        '<svg viewBox="0 0 1000 115" preserveAspectRatio="none" role="img" aria-label="Things removed over time">'
        f'{"".join(bars)}<line class="axis" x1="0" x2="1000" y1="110" y2="110"/></svg>'
        f'<p class="dim">{time(document["since"])} to {time(document["until"])}; the highest bar is {most} in one '
        f"{'hour' if hours else 'day'}; instances with failures are red.</p>"
    )


def _slot(at: Any, start: datetime, length: timedelta, number: int) -> int:
    """The index of the bar for a time. Times outside the period belong to the first or last bar."""
    try:
        moment = datetime.fromisoformat(str(at)).astimezone(UTC)
    except ValueError:
        return number - 1
    return min(number - 1, max(0, (moment - start) // length))
