"""python -m benchmarks.fairness --output FILE [--revision OLD] [--seconds S] [--side PIXELS] [--only CASE …]

One ordinary client beside clients whose requests take long: three that send large transparent PNG files of a few
kilobytes, over one connection or 16 each, and one that asks for 140 explanations at once. Every client has an address
of its own (127.0.0.1, 127.0.0.2, …). What became of the ordinary requests is told for each case.
"""

import argparse
import http.client
import io
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from benchmarks.circumstances import ROOT, write_result
from benchmarks.overload import service
from benchmarks.revisions import checkout

ORDINARY = "127.0.0.1"
FIRST_SECONDS = 2.0  # in which the others are alone
BREAK, AFTER_REFUSAL = 0.05, 0.2  # seconds between two requests


@dataclass(frozen=True)
class Case:
    """Who asks beside the ordinary client."""

    path: str
    addresses: tuple[str, ...]
    connections: int  # of each


_THREE = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
CASES = {
    "nobody": Case("/classify", (), 0),
    "three, one connection each": Case("/classify", _THREE, 1),
    "three, 16 connections each": Case("/classify", _THREE, 16),
    "/explain, 140 connections": Case("/explain", _THREE[:1], 140),
}


def measure(tree: Path, case: Case, photograph: bytes, large: bytes, *, seconds: float) -> dict[str, object]:
    """What the ordinary client and the others got from the service of `tree`."""
    others: Counter[int] = Counter()
    with service(["--repository", str(ROOT / "model_repository")], None, tree=tree) as (host, port, _):
        end = time.monotonic() + seconds

        def ask_on(address: str) -> None:
            content = photograph if case.path == "/explain" else large
            while time.monotonic() < end:
                connection = http.client.HTTPConnection(host, port, timeout=60, source_address=(address, 0))
                try:
                    while time.monotonic() < end:
                        status = _ask(connection, case.path, content)
                        others[status] += 1
                        if status == 429:
                            time.sleep(AFTER_REFUSAL)
                except (OSError, http.client.HTTPException):
                    time.sleep(AFTER_REFUSAL)
                finally:
                    connection.close()

        threads = [
            threading.Thread(target=ask_on, args=(address,))
            for address in case.addresses
            for _ in range(case.connections)
        ]
        for thread in threads:
            thread.start()
        time.sleep(FIRST_SECONDS)
        codes: Counter[int] = Counter()
        times: list[float] = []
        connection = http.client.HTTPConnection(host, port, timeout=60, source_address=(ORDINARY, 0))
        while time.monotonic() < end:
            started = time.monotonic()
            codes[_ask(connection, "/classify", photograph)] += 1
            times.append(time.monotonic() - started)
            time.sleep(BREAK)
        for thread in threads:
            thread.join()
    times.sort()
    return {
        "ordinary": {
            "answers": {str(code): count for code, count in sorted(codes.items())},
            "p50_ms": round(1000 * times[len(times) // 2], 1),
            "p99_ms": round(1000 * times[int(len(times) * 0.99)], 1),
            "slowest_ms": round(1000 * times[-1], 1),
        },
        "others": {str(code): count for code, count in sorted(others.items())},
    }


def _ask(connection: http.client.HTTPConnection, path: str, content: bytes) -> int:
    connection.request("POST", path, content, {"Content-Type": "application/octet-stream"})
    answer = connection.getresponse()
    answer.read()
    return answer.status


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fairness")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--revision", help="also of the service of this revision")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each case")
    parser.add_argument("--side", type=int, default=4000, help="pixels of the large files")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="CASE", help=", ".join(CASES))
    given = parser.parse_args()
    file = io.BytesIO()
    Image.new("RGBA", (given.side, given.side), "red").save(file, "PNG")
    photograph = (ROOT / "examples" / "rocket.jpg").read_bytes()
    measured: dict[str, object] = {"side": given.side, "seconds": given.seconds, "large_bytes": len(file.getvalue())}
    with ExitStack() as trees:
        services = {"this tree": ROOT}
        if given.revision:
            services = {given.revision: trees.enter_context(checkout(given.revision)), **services}
        for name, tree in services.items():
            measured[name] = {
                title: measure(tree, CASES[title], photograph, file.getvalue(), seconds=given.seconds)
                for title in given.only
            }
    write_result(given.output, measured, "pillow", "onnxruntime", "uvicorn")
    print(given.output.read_text())


if __name__ == "__main__":
    main()
