"""Turns of several rounds --> medians, ratios, a Markdown table, and curves of latency over throughput as PNG."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.peers.turn import CLIENTS, SHARES

CLOSED = [f"{clients} clients" for clients in CLIENTS]
OPEN = [f"{share:.0%} of capacity" for share in SHARES]
HEAD = (
    "server",
    *(f"per second, {clients} clients" for clients in CLIENTS),
    "share of raw",
    "over aaserve",
    "p50 / p99 ms, 32 clients",
    "p50 / p99 ms at 80 %",
    "CPU ms each",
    "MB",
)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Markdown; every column but the first is right-aligned."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *([str(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def median_of(turns: Sequence[Mapping[str, Any]]) -> Any:
    """The median of every number in nested turns; for text and lists the last value, for codes the sum."""
    first = turns[-1]
    if isinstance(first, Mapping):
        return {
            key: _sums([turn[key] for turn in turns])
            if key == "codes"
            else median_of([turn[key] for turn in turns if turn.get(key) is not None] or [None])
            for key in first
        }
    if isinstance(first, (int, float)) and not isinstance(first, bool):
        return round(statistics.median(turns), 4)  # type: ignore[type-var]
    return first


def _sums(codes: Sequence[Mapping[str, int]]) -> dict[str, int]:
    return {code: sum(one.get(code, 0) for one in codes) for code in sorted({code for one in codes for code in one})}


def medians(rounds: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Medians by server, with medians of the ratios within a round to its runtime alone and to aaserve."""
    found = {}
    for name in rounds[-1]:
        if name == "raw":
            continue
        turns = [one[name] for one in rounds]
        if bad := [turn for turn in turns if "disagrees" in turn or "failed" in turn]:
            found[name] = dict(bad[0])
            continue
        found[name] = median_of(turns)
        for level in CLOSED:
            rates = [turn[level]["answered_per_second"] for turn in turns]
            ours = [one.get("aaserve", {}).get(level, {}).get("answered_per_second") for one in rounds]
            raw = [one["raw"].get(name, one["raw"]["per_second"]) for one in rounds]
            found[name][level]["share_of_raw"] = _ratio(rates, raw)
            if all(ours):
                found[name][level]["over_aaserve"] = _ratio(rates, ours)
    return found


def _ratio(above: Sequence[float], below: Sequence[float]) -> float:
    return round(statistics.median(one / other for one, other in zip(above, below, strict=True)), 3)


def markdown(workload: str, words: str, raw: float, servers: Mapping[str, Any]) -> str:
    """A table, fastest server first."""
    fine = {name: found for name, found in servers.items() if "32 clients" in found}
    rows = []
    for name, found in sorted(fine.items(), key=lambda item: -item[1]["32 clients"]["answered_per_second"]):
        levels = [found[load] for load in CLOSED]
        rows.append(
            (
                name,
                *(f"{level['answered_per_second']:,.0f}" for level in levels),
                " / ".join(f"{level['share_of_raw']:.2f}" for level in levels),
                " / ".join(f"{level['over_aaserve']:.2f}" if "over_aaserve" in level else "–" for level in levels),
                _latency(levels[-1]),
                _latency(found.get(OPEN[1])),
                f"{levels[-1]['cpu_ms_each']:.2f}",
                f"{found['resident_mb']:,.0f}",
            )
        )
    lines = [f"{workload}: {words}; ONNX Runtime alone {raw:,.0f} images a second", table(HEAD, rows)]
    for name, found in servers.items():
        if name not in fine:
            reason = str(found.get("failed") or "gives other answers, so it was not measured").splitlines()[0]
            lines.append(f"{name}: {reason}")
        elif errors := sorted({code for level in _levels(found) for code in level["codes"]} - {"200"}):
            lines.append(f"{name} also answered: {', '.join(errors)}")
    return "\n\n".join(lines)


def _latency(level: Mapping[str, Any] | None) -> str:
    return f"{level['ms']['p50']:.1f} / {level['ms']['p99']:.1f}" if level and level["ms"] else "–"


def _levels(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [level for level in found.values() if isinstance(level, Mapping) and "codes" in level]


def plot(path: Path, workloads: Mapping[str, Mapping[str, Any]]) -> None:
    """A panel per workload, a colour per server; p50 as a line and p99 as triangles over answers per second.

    Solid: by number of clients. Dashed: by rate of random arrivals. Points are in the order of the load.
    """
    figure = Figure(figsize=(6 * len(workloads), 4.5), layout="constrained")
    panels = figure.subplots(1, len(workloads), squeeze=False)[0]
    for axes, (name, workload) in zip(panels, workloads.items(), strict=True):
        for number, (server, found) in enumerate(workload["servers"].items()):
            colour, label = f"C{number}", server
            for loads, style in ((CLOSED, "-"), (OPEN, "--")):
                if levels := [found[load] for load in loads if found.get(load, {}).get("ms")]:
                    rates = [level["answered_per_second"] for level in levels]
                    p50, p99 = ([level["ms"][quantile] for level in levels] for quantile in ("p50", "p99"))
                    axes.plot(rates, p50, style, marker="o", markersize=4, color=colour, label=label)
                    axes.plot(rates, p99, "^", markersize=4, color=colour, alpha=0.6)
                    label = None
        axes.axvline(workload["raw_per_second"], color="black", linestyle=":", label="ONNX Runtime alone")
        axes.set(title=f"{name}: {workload['words']}", xlabel="answers per second", ylabel="ms: p50 ●, p99 ▲")
        axes.set_yscale("log")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
