"""Traces: what is recorded of a request and its batch, what leaves the process, and what a bad collector costs."""

import concurrent.futures
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from aaserve.service.errors import QueueFull
from aaserve.service.http.app import create_app
from aaserve.service.observability.tracing import Tracing
from aaserve.service.settings import Settings
from tests.helpers import (
    COMMAND,
    EXAMPLES,
    REPOSITORY,
    RunningService,
    running_service,
    served,
    start_that_fails,
    wait_until,
)
from tests.toy_bundles import OUT_OF_RANGE, picture, write_fragile_bundle

TRACE = "4bf92f3577b34da6a3ce929d0e0e47{:02x}"
CALLER = "00f067aa0ba902b7"
STAGES = ["receive", "decode", "queue", "inference"]


def traceparent(number: int, *, sampled: bool = True) -> dict[str, str]:
    return {"traceparent": f"00-{TRACE.format(number)}-{CALLER}-0{int(sampled)}"}


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
    server, slack = spans["POST /classify"], 2_000_000  # two clocks, read one after the other
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


@dataclass
class Collector:
    """An OTLP collector; `status` is its answer to everything, None for never any."""

    status: int | None = 200
    requests: list[ExportTraceServiceRequest] = field(default_factory=list)

    @property
    def spans(self) -> list[Any]:
        scopes = [scope for each in self.requests for one in each.resource_spans for scope in one.scope_spans]
        return [span for scope in scopes for span in scope.spans]


@contextmanager
def collecting(monkeypatch: pytest.MonkeyPatch, status: int | None = 200) -> Iterator[Collector]:
    """A collector on a free port, which OTEL_EXPORTER_OTLP_ENDPOINT names."""
    collector, stop = Collector(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            collector.requests.append(ExportTraceServiceRequest.FromString(body))
            if status is None:
                stop.wait(60)
            else:
                self.send_response(status)
                self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield collector
        stop.set()
        server.shutdown()


def classify(service: RunningService, number: int) -> httpx.Response:
    headers = {**traceparent(number), "Content-Type": "image/jpeg"}
    return service.client.post("/classify", content=(EXAMPLES / "rocket.jpg").read_bytes(), headers=headers)


@pytest.mark.parametrize("workers", [1, 2])
def test_spans_reach_a_collector_at_the_latest_when_the_service_stops(
    monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")  # not before the end
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    options = ("--tracing", "--log-format", "json", "--workers", str(workers))
    with collecting(monkeypatch) as collector, running_service(*options) as service:
        wait_until(lambda: len([line for line in service.log if '"ready"' in line]) == workers)
        for number in range(4):
            assert classify(service, number).status_code == 200
        assert collector.requests == []
        assert service.stop() == 0
    traces = {TRACE.format(number) for number in range(4)}
    assert {span.trace_id.hex() for span in collector.spans if span.name == "inference"} == traces
    for request in collector.requests:
        [resource] = [spans.resource for spans in request.resource_spans]
        said = {attribute.key: attribute.value.string_value for attribute in resource.attributes}
        assert (said["service.name"], said["deployment.environment.name"]) == ("aaserve", "test")
    lines = [json.loads(line) for line in service.log]
    assert {line["trace_id"] for line in lines if line["message"] == "request"} == traces
    assert all("trace_id" not in line for line in lines if line["message"] != "request")


def test_the_sdks_own_variables_decide_how_much_and_under_which_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    with collecting(monkeypatch) as collector, running_service("--tracing") as service:
        service.classify((EXAMPLES / "rocket.jpg").read_bytes())  # without the header that asks for sampling
        classify(service, 1)
        assert service.stop() == 0
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE.format(1)}
    [resource] = {spans.resource.SerializeToString() for each in collector.requests for spans in each.resource_spans}
    assert b"mine" in resource


def test_a_collector_that_refuses_costs_a_line_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    with collecting(monkeypatch, status=400) as collector, running_service("--tracing") as service:

        def refused_again() -> bool:
            return classify(service, 1).status_code == 200 and len(collector.requests) > 3

        wait_until(refused_again)
        assert service.stop() == 0
    assert len([line for line in service.log if "opentelemetry" in line]) == 1


def test_a_collector_that_never_answers_holds_up_neither_requests_nor_the_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "60")
    with collecting(monkeypatch, status=None) as collector, running_service("--tracing") as service:
        classify(service, 1)
        wait_until(lambda: collector.requests)
        assert {classify(service, number).status_code for number in range(20)} == {200}
        assert service.stop() == 0  # which waits 30 seconds


@pytest.fixture
def without_otel(tmp_path: Path) -> dict[str, str]:
    """The environment of a service that cannot import what the extra installs."""
    absent = ["opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.proto", "requests", "google.protobuf"]
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({absent}))\n")
    return {"PYTHONPATH": str(tmp_path)}


def test_without_the_extra_the_service_needs_nothing_of_it(without_otel: dict[str, str]) -> None:
    with running_service(repository=REPOSITORY, run=COMMAND, environment=without_otel) as service:
        answer = classify(service, 1)
        assert answer.status_code == 200
        assert "traceresponse" not in answer.headers


def test_traces_that_are_asked_for_and_not_installed_stop_the_start(without_otel: dict[str, str]) -> None:
    status, said = start_that_fails("--tracing", **without_otel)
    assert status == 1
    assert re.fullmatch(r"error: tracing: expected the extra otel \(pip .*\), found no module \S+\n", said)


@pytest.mark.parametrize(
    ("name", "value"),
    [("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), ("OTEL_TRACES_EXPORTER", "zipkin"), ("OTEL_BSP_MAX_QUEUE_SIZE", "-1")],
)
def test_a_tracing_variable_that_cannot_be_followed_stops_the_start(name: str, value: str) -> None:
    status, said = start_that_fails("--tracing", **{name: value})
    assert status == 1
    assert said.startswith("error: tracing: ")
