"""Traces: what is recorded of a request and its batch."""

import concurrent.futures
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from aaserve.service.errors import QueueFull
from aaserve.service.http.app import create_app
from aaserve.service.observability.tracing import Tracing
from aaserve.service.settings import Settings
from tests.helpers import served, wait_until
from tests.service.observability.trace_context import CALLER, TRACE, traceparent
from tests.toy_bundles import OUT_OF_RANGE, picture, write_fragile_bundle

STAGES = ["receive", "decode", "queue", "inference"]


@dataclass
class Traced:
    """The application in this process, over a socket, its spans in memory."""

    client: httpx.Client
    app: FastAPI
    tracing: Tracing
    exporter: InMemorySpanExporter

    def classify(self, content: bytes, number: int, **headers: Any) -> httpx.Response:
        headers = {**traceparent(number), "Content-Type": "image/png", **headers}
        return self.client.post("/classify", content=content, headers=headers)

    def spans(self, number: int) -> dict[str, ReadableSpan]:
        """The spans of a trace by name, once its request is over."""
        wait_until(lambda: self.found(number, SpanKind.SERVER))
        return {span.name: span for span in self.found(number)}

    def found(self, number: int, kind: SpanKind | None = None) -> list[ReadableSpan]:
        """The spans of a trace by now."""
        self.tracing.provider.force_flush()
        spans = self.exporter.get_finished_spans()
        trace_id = int(TRACE.format(number), 16)
        return [span for span in spans if span.context.trace_id == trace_id and kind in (None, span.kind)]


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    """The network that fails where it is told to; three requests at once make one batch."""
    repository = tmp_path_factory.mktemp("traced")
    write_fragile_bundle(repository)
    exporter = InMemorySpanExporter()
    tracing = Tracing(exporter)
    settings = Settings(port=0, repository=repository, max_batch_size=3, cpu_batch_ms=10_000, max_queue_delay_ms=600)
    app = create_app(settings, tracing=tracing)
    with served(app) as (client, _):
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        yield Traced(client, app, tracing, exporter)
    tracing.close()


def test_a_request_is_a_span_under_its_callers_with_its_stages_below(traced: Traced) -> None:
    answer = traced.classify(picture(1), 1, tracestate="vendor=value", **{"X-Request-ID": "mine"})
    spans = traced.spans(1)
    server = spans["POST /classify"]
    assert (server.parent.span_id, server.parent.is_remote) == (int(CALLER, 16), True)
    assert server.context.trace_state.get("vendor") == "value"
    assert dict(server.attributes) | {
        "http.request.method": "POST",
        "http.route": "/classify",
        "http.response.status_code": 200,
        "url.path": "/classify",
        "aaserve.request.id": "mine",
        "aaserve.outcome": "ok",
        "aaserve.model.name": "fragile",
        "aaserve.model.version": "1",
        "aaserve.batch.size": 1,
    } == dict(server.attributes)
    assert server.status.status_code is StatusCode.UNSET
    stages = [spans[stage] for stage in STAGES]
    assert {span.parent.span_id for span in stages} == {server.context.span_id}
    instants = [instant for span in stages for instant in (span.start_time, span.end_time)]
    assert instants == sorted(instants)
    assert answer.headers["traceresponse"] == f"00-{TRACE.format(1)}-{server.context.span_id:016x}-01"
    assert answer.headers["x-request-id"] == "mine"


def test_the_stages_are_where_and_as_long_as_they_were(traced: Traced) -> None:
    answer = traced.classify(picture(1), 2)
    spans = traced.spans(2)
    said = dict(re.findall(r"(\w+);dur=([\d.]+)", answer.headers["server-timing"]))
    for stage in STAGES:
        took = (spans[stage].end_time - spans[stage].start_time) / 1e6
        assert took == pytest.approx(float(said[stage]), abs=0.01)
    server, slack = spans["POST /classify"], 200_000_000  # two clocks; the process may be interrupted between them
    assert server.start_time - slack <= spans["receive"].start_time
    assert spans["inference"].end_time <= server.end_time + slack


def test_a_batch_links_its_members_and_they_link_it(traced: Traced) -> None:
    numbers = [3, 4, 5]
    with concurrent.futures.ThreadPoolExecutor(3) as threads:
        answers = list(threads.map(lambda number: traced.classify(picture(1), number), numbers))
    assert {answer.status_code for answer in answers} == {200}
    members = [traced.spans(number) for number in numbers]
    [batch] = [spans["batch"] for spans in members if "batch" in spans]
    servers = {spans["POST /classify"].context.span_id for spans in members}
    assert {link.context.span_id for link in batch.links} == servers
    assert batch.parent.span_id in servers
    assert (batch.attributes["aaserve.model.name"], batch.attributes["aaserve.batch.size"]) == ("fragile", 3)
    for spans in members:
        assert [link.context.span_id for link in spans["inference"].links] == [batch.context.span_id]


def test_a_request_of_several_pictures_is_one_member_of_its_batch(traced: Traced) -> None:
    files = [("image", ("1.png", picture(1), "image/png"))] * 3
    assert traced.client.post("/classify/batch", files=files, headers=traceparent(14)).status_code == 200
    spans = traced.spans(14)
    assert spans["batch"].attributes["aaserve.batch.size"] == 3
    assert [link.context.span_id for link in spans["batch"].links] == [spans["POST /classify/batch"].context.span_id]
    assert [link.context.span_id for link in spans["inference"].links] == [spans["batch"].context.span_id]


def test_a_caller_who_is_not_sampled_leaves_no_span_and_no_link(traced: Traced) -> None:
    with concurrent.futures.ThreadPoolExecutor(3) as threads:
        sampled = threads.submit(traced.classify, picture(1), 6)
        others = [threads.submit(traced.classify, picture(1), 7, **traceparent(7, sampled=False)) for _ in range(2)]
    assert [other.result().headers["traceresponse"][-3:] for other in others] == ["-00", "-00"]
    spans = traced.spans(6)
    assert sampled.result().status_code == 200
    assert len(spans["batch"].links) == 1
    assert spans["batch"].attributes["aaserve.batch.size"] == 3
    assert traced.found(7) == []


def test_errors_are_recorded_in_the_trace(traced: Traced) -> None:
    traced.classify(b"no picture", 8)
    bad = traced.spans(8)
    assert bad["POST /classify"].attributes["aaserve.outcome"] == "unsupported_media_type"
    assert "inference" not in bad
    traced.classify(picture(OUT_OF_RANGE), 9)
    failed = traced.spans(9)
    assert failed["POST /classify"].attributes["aaserve.outcome"] == "internal"
    assert failed["POST /classify"].status.status_code is StatusCode.ERROR
    assert failed["batch"].status.status_code is StatusCode.ERROR


def test_a_request_refused_at_the_door_says_by_whom_it_would_have_been_answered(
    traced: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    [predictor] = traced.app.state.lifecycle.repository.predictors
    monkeypatch.setattr(predictor.admission, "refusal", lambda **_: QueueFull())
    assert traced.classify(picture(1), 10).status_code == 429
    [server] = traced.spans(10).values()
    assert server.attributes["http.route"] == "/classify"
    assert server.attributes["aaserve.outcome"] == "queue_full"


def test_a_caller_who_left_is_recorded_as_such(traced: Traced) -> None:
    head = "POST /classify HTTP/1.1\r\nHost: here\r\nContent-Type: image/png\r\nContent-Length: 9\r\n"
    with socket.create_connection((traced.client.base_url.host, traced.client.base_url.port)) as connection:
        connection.sendall(f"{head}traceparent: {traceparent(11)['traceparent']}\r\n\r\nhalf".encode())
    [server] = traced.spans(11).values()
    assert server.attributes["aaserve.outcome"] == "disconnected"


def test_probes_and_scrapes_are_not_traced(traced: Traced) -> None:
    for path in ("/health/live", "/health/ready", "/metrics"):
        assert "traceresponse" not in traced.client.get(path, headers=traceparent(12)).headers
    assert traced.found(12) == []
