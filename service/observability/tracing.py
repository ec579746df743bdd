"""Traces of requests, by OpenTelemetry's SDK over OTLP. Imported only where the setting `tracing` is on.

    caller's traceparent --> server span (FastAPI's) --> receive, decode, queue, inference (from the Record)
                                   ^ parent of the first, linked to all      | linked
                                   +------------------------------- batch <--+

Where to, how much and under which name say the SDK's own variables, OTEL_*. Spans leave in the SDK's thread, from a
bounded queue; a collector that is away costs spans and a line a minute, never a request.
"""

import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from aaserve.bundle.manifest import Manifest
from aaserve.service.errors import StartFailed
from aaserve.service.observability.request_record import Record
from aaserve.service.version import VERSION

FLUSH = 2.0  # seconds that the end of the process waits for the collector, at most
_QUIET = 60.0  # seconds between two lines of one of the SDK's loggers
_SUPPORTED = {
    "OTEL_TRACES_EXPORTER": "otlp",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
}


@dataclass(slots=True, eq=False)
class Caller:
    """A request that is recorded, as the batches with its rows see it."""

    span: SpanContext
    batches: list[SpanContext] = field(default_factory=list)


_caller: ContextVar[Caller | None] = ContextVar("caller", default=None)


class Tracing:
    """The spans of one process. `provider` is what FastAPI makes the server spans with.

    Raises:
        StartFailed: the environment asks for what is not here.
    """

    def __init__(self, exporter: SpanExporter | None = None) -> None:
        for name, supported in _SUPPORTED.items():
            if (found := os.environ.get(name, supported)) not in ("", supported):
                raise StartFailed(f"tracing: expected {name} to be {supported}, found {found!r}")
        ours = Resource.create({"service.name": "aaserve", "service.version": VERSION})
        try:
            self.provider = TracerProvider(resource=ours.merge(OTELResourceDetector().detect()), shutdown_on_exit=False)
            self.provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
        except (ValueError, OSError) as error:
            raise StartFailed(f"tracing: {error}") from error
        self._tracer = self.provider.get_tracer("aaserve", VERSION)
        self.logs = TraceLogs()

    def begin(self) -> None:
        """Note whose rows they are that this request gives to a batcher."""
        span = trace.get_current_span()
        _caller.set(Caller(span.get_span_context()) if span.is_recording() else None)

    def finish(self, record: Record) -> None:
        """Put what is known of the request into its span, and its stages under it."""
        caller = _caller.get()
        if caller is None:
            return
        span = trace.get_current_span()
        span.set_attributes(
            {
                "aaserve.request.id": record.request_id,
                "aaserve.outcome": record.outcome,
                "aaserve.model.name": record.model,
                "aaserve.model.version": record.version,
                "aaserve.batch.size": record.batch_size or 0,
            }
        )
        epoch = time.time_ns() - time.perf_counter_ns()
        for stage, begin, end in _timeline(record):
            links = [Link(batch) for batch in caller.batches] if stage == "inference" else None
            self._tracer.start_span(stage, start_time=epoch + round(begin * 1e9), links=links).end(
                epoch + round(end * 1e9)
            )

    def response_headers(self) -> list[tuple[bytes, bytes]]:
        """Which trace the answer belongs to: `traceresponse`, as the drafts of W3C Trace Context level 3 have it."""
        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier)
        return [(b"traceresponse", carrier["traceparent"].encode())] if "traceparent" in carrier else []

    def of_model(self, manifest: Manifest) -> "ModelTracing":
        """What the model's batcher records its batches with."""
        return ModelTracing(self._tracer, manifest)

    def close(self) -> None:
        """Send what is left, for FLUSH seconds at most."""
        flushing = threading.Thread(target=self.provider.shutdown, daemon=True)
        flushing.start()
        flushing.join(FLUSH)


class ModelTracing:
    """Records one model's batches."""

    def __init__(self, tracer: trace.Tracer, manifest: Manifest) -> None:
        self._tracer = tracer
        self._attributes = {"aaserve.model.name": manifest.name, "aaserve.model.version": manifest.version}

    def caller(self) -> Caller | None:
        """The request at hand, if it is recorded."""
        return _caller.get()

    @contextmanager
    def batch(self, callers: Sequence[object], rows: int) -> Iterator[None]:
        """Record a model call, if any of its callers are recorded; in the inference thread."""
        members = [caller for caller in dict.fromkeys(callers) if isinstance(caller, Caller)]
        if not members:
            yield
            return
        with self._tracer.start_as_current_span(
            "batch",
            context=trace.set_span_in_context(NonRecordingSpan(members[0].span)),  # so that one sampler decides
            links=[Link(member.span) for member in members],
            attributes={**self._attributes, "aaserve.batch.size": rows},
        ) as span:
            for member in members:
                member.batches.append(span.get_span_context())
            yield


class TraceLogs(logging.Filter):
    """Gives every line of a request its trace id, and lets each of the SDK's loggers speak once a minute."""

    def __init__(self) -> None:
        super().__init__()
        self._spoke: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.startswith("opentelemetry."):
            now = time.monotonic()
            if now - self._spoke.get(record.name, -_QUIET) < _QUIET:
                return False
            self._spoke[record.name] = now
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            record.trace_id = trace.format_trace_id(context.trace_id)
        return True


def _timeline(record: Record) -> Iterator[tuple[str, float, float]]:
    """Stage, begin and end, as instants of `perf_counter`; what follows the body ends with the prediction."""
    stages = dict(record.stages)
    if "receive" in stages:
        yield "receive", record.started, record.started + stages.pop("receive")
    if record.predicted_at is not None:
        begin = record.predicted_at - sum(stages.values())
        for stage, seconds in stages.items():
            yield stage, begin, begin + seconds
            begin += seconds
