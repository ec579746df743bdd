"""python -m docs.reference: write the tables of docs/reference.md from the code.

settings, error classes, metrics, OpenAPI --> Markdown tables, between <!-- NAME --> and <!-- end NAME -->
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from aaserve.bundle.files.shipped import MODELS
from aaserve.service import errors
from aaserve.service.http.app import create_app
from aaserve.service.http.error_responses import FRAMEWORK_CODES
from aaserve.service.observability.gpu_metrics import GpuMetrics
from aaserve.service.observability.metrics import Metrics
from aaserve.service.settings import Settings

DOCUMENT = Path(__file__).parent / "reference.md"
_OF_THE_FRAMEWORK = {
    "not_found": ("No such path.", "See endpoints below."),
    "method_not_allowed": ("Wrong method.", "See the header Allow."),
}


def settings() -> str:
    rows = []
    for name, field in Settings.model_fields.items():
        default = "cores" if field.default_factory else str(field.default)
        default = "what ships" if field.default == MODELS else default
        rows.append((f"`{name}`", f"`{default}`" if default else "", _code(field.description or "")))
    return _table(("setting", "default", "meaning"), rows)


def error_codes() -> str:
    found: dict[str, tuple[int, str, str]] = {}
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.ServiceError) and kind.code not in found:
            when, _, what_to_do = " ".join(line.strip() or "\n" for line in kind.__doc__.splitlines()).partition("\n")
            found[kind.code] = (kind.status, when, what_to_do)
    found |= {code: (status, *_OF_THE_FRAMEWORK[code]) for status, code in FRAMEWORK_CODES.items()}
    rows = [(str(status), f"`{code}`", *map(_code, words)) for code, (status, *words) in found.items()]
    return _table(("status", "code", "when", "what to do"), sorted(rows))


def metrics() -> str:
    rows = []
    for metric in vars(Metrics()).values():
        if hasattr(metric, "_labelnames"):
            described = metric.describe()[0]
            name = described.name + ("_total" if described.type == "counter" else "")
            rows.append((name, described.type, metric._labelnames, described.documentation))
    rows += [(family.name, family.type, ("device",), family.documentation) for family in GpuMetrics(0).describe()]
    return _table(
        ("metric", "type", "labels", "meaning"),
        [
            (f"`{name}`", kind, ", ".join(f"`{label}`" for label in labels), _code(words))
            for name, kind, labels, words in rows
        ],
    )


def endpoints() -> str:
    rows: dict[tuple[str, str], tuple[list[str], str]] = {}
    paths = create_app(Settings()).openapi()["paths"]
    for path, methods in paths.items():
        version = re.search(r"(/versions)?/{version}", path)
        if version and path.replace(version[0], "") in paths:
            continue  # shown below, in brackets
        shown = path
        for part in ("/versions/{version}", "/{version}"):
            if path.replace("/{model}", f"/{{model}}{part}") in paths.keys() - {path}:
                shown = path.replace("/{model}", f"/{{model}}[{part}]")
        for method, described in methods.items():
            words = " ".join(described["description"].split("\n\n")[0].split())
            rows.setdefault((shown, words), ([], ", ".join(sorted(described["responses"]))))[0].append(method.upper())
    return _table(
        ("endpoint", "what it does", "statuses"),
        [(f"`{', '.join(methods)} {path}`", words, statuses) for (path, words), (methods, statuses) in rows.items()],
    )


TABLES = {"settings": settings, "errors": error_codes, "metrics": metrics, "endpoints": endpoints}


def updated(text: str) -> str:
    """The document with every table as the code has it now."""
    for name, table in TABLES.items():
        before, start, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- end {name} -->")
        text = f"{before}{start}\n{table()}\n\n{end}{after}"
    return text


def _code(words: str) -> str:
    """On one line, with names of settings and metrics as code."""
    words = " ".join(words.split())
    names = "|".join([*(name for name in Settings.model_fields if "_" in name), r"aaserve_\w+"])
    return re.sub(rf"\b({names})\b", r"`\1`", words)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


if __name__ == "__main__":
    DOCUMENT.write_text(updated(DOCUMENT.read_text()))
