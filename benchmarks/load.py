"""python -m benchmarks.load URL --image FILE… [--clients N | --rate PER_SECOND] [--seconds S] [--output FILE]

Sends pictures to any HTTP server and reports throughput, latency and status codes. With --clients each client sends
again after an answer (closed loop): use it for throughput. With --rate requests leave at random times, whether or not
the server keeps up (open loop), and latency counts from these times: use it for latency. In a closed loop a server that
stalls gets fewer requests, so its percentiles look better than they are.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.harness.circumstances import write_result
from benchmarks.harness.generator import Generator, post_request
from benchmarks.harness.samples import summary


def _table(found: dict[str, Any]) -> Table:
    table = Table(title=f"{found['answered_per_second']:,} answers per second")
    for heading in ("milliseconds", *(found["generator_late_ms"] or {})):
        table.add_column(heading, justify="right")
    for words, row in (("status 200", found["ms"]), ("sent late", found["generator_late_ms"])):
        table.add_row(words, *(f"{value:.2f}" for value in (row or {}).values()))
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__.split("\n\n")[1])
    parser.add_argument("url", metavar="URL", help="such as http://127.0.0.1:8080/classify")
    parser.add_argument(
        "--image", type=Path, nargs="+", required=True, metavar="FILE", help="pictures, sent in rotation"
    )
    parser.add_argument("--header", action="append", default=[], metavar="NAME:VALUE", help="of every request")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--clients", type=int, default=8, help="closed loop: concurrent clients (default: 8)")
    how.add_argument("--rate", type=float, metavar="PER_SECOND", help="open loop: arrivals per second")
    parser.add_argument("--seconds", type=float, default=10, help="duration of the load (default: 10)")
    parser.add_argument("--warm-up", type=float, default=1, metavar="S", help="seconds of load before it (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the arrival times (default: 0)")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    return parser


def main() -> int:
    parser = _parser()
    arguments = parser.parse_args()
    url = urlsplit(arguments.url)
    if url.scheme != "http" or not url.hostname:
        parser.error(f"expected http://HOST[:PORT]/PATH, found {arguments.url!r}")
    if arguments.clients < 1 or (arguments.rate or 1) <= 0 or arguments.seconds <= 0:
        parser.error("--clients, --rate and --seconds must be greater than 0")
    try:
        headers = {name.strip(): value.strip() for name, value in (one.split(":", 1) for one in arguments.header)}
        requests = [_request(url.path or "/", url.query, path, headers) for path in arguments.image]
    except ValueError:
        parser.error("expected --header NAME:VALUE")
    except OSError as error:
        raise SystemExit(f"error: {error}") from error
    try:
        with Generator([(url.hostname, url.port or 80)], requests) as generator:
            if arguments.warm_up:
                generator.closed_loop(clients=arguments.clients, seconds=arguments.warm_up)
            if arguments.rate is None:
                samples = generator.closed_loop(clients=arguments.clients, seconds=arguments.seconds)
            else:
                samples = generator.open_loop(per_second=arguments.rate, seconds=arguments.seconds, seed=arguments.seed)
    except OSError as error:
        raise SystemExit(f"error: {url.hostname}:{url.port or 80}: {error.strerror or error}") from error
    found = {
        "url": arguments.url,
        "clients": None if arguments.rate else arguments.clients,
        "rate": arguments.rate,
        **summary(samples),
    }
    console = Console()
    console.print(_table(found))
    console.print(
        f"by status: {found['codes']}; the generator took {found['generator_microseconds_each']} µs a request"
    )
    if arguments.output:
        write_result(arguments.output, found)
    return 0 if set(found["codes"]) == {"200"} else 1


def _request(path: str, query: str, image: Path, headers: Mapping[str, str]) -> bytes:
    with Image.open(image) as opened:
        media_type = Image.MIME[opened.format or ""]
    target = f"{path}?{query}" if query else path
    return post_request(target, image.read_bytes(), {"Content-Type": media_type, **headers})


if __name__ == "__main__":
    sys.exit(main())
