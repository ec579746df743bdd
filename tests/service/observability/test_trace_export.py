"""Traces that leave the process: what a collector gets, what a bad one costs, and a start without the extra."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.helpers import COMMAND, EXAMPLES, REPOSITORY, RunningService, running_service, start_that_fails, wait_until
from tests.service.observability.trace_context import TRACE, traceparent


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
