"""python -m service [--repository DIR] [--host H] [--port P] [--provider auto|cpu|cuda|openvino|…] [--workers N] …

settings --> port bound --> models opened, checked and warmed up --> ready ... SIGTERM --> drained

With several workers this process only binds and supervises (process/supervisor.py); each worker starts here too.
"""

import os
import signal
import sys

if __name__ == "__main__":  # before the other imports, which take half a second and open files
    signal.signal(signal.SIGHUP, lambda *_: None)  # SIG_IGN would drop one that the supervisor has blocked until here
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))  # there is nothing to stop yet
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # which the supervisor blocks until here
    while (free := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # a standard stream that is closed: no socket must get its number
    os.close(free)
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115 (as long as the process)

import gc
import logging
import socket
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EACCES, EADDRINUSE
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from pydantic import ValidationError
from pydantic_settings import CliApp

from aaserve.bundle.bundle import scan_repository
from aaserve.bundle.errors import BundleError
from aaserve.service.errors import LoadFailed, StartFailed
from aaserve.service.http.app import create_app
from aaserve.service.http.keys import Keys
from aaserve.service.observability.log_writer import LogWriter
from aaserve.service.observability.logs import configure_logging
from aaserve.service.process.connection import Connection
from aaserve.service.process.connection_limit import ConnectionLimit
from aaserve.service.process.server import Server
from aaserve.service.process.supervisor import HUNG, Supervisor, Worker
from aaserve.service.process.tls import Certificate
from aaserve.service.repository.default_model import read_default_model
from aaserve.service.resources import allowed_connections
from aaserve.service.setting_names import as_written, first_problem, unknown_variables
from aaserve.service.settings import Settings
from aaserve.service.threads import take_turns

if TYPE_CHECKING:
    from aaserve.service.observability.tracing import Tracing

BACKLOG = 2048  # connections that the kernel holds for us
log = logging.getLogger("aaserve")


def main() -> int:
    try:
        if sys.argv[0] == __file__:  # else it is "aaserve serve"
            sys.argv[0] = "python -m service"  # which --help shows
        settings = CliApp.run(Settings)
        with _about("repository"):
            found = scan_repository(settings.repository)
        worker = Worker.from_environment()
        if worker is None:
            read_default_model(settings, found)  # one that is not there stops the start
        if settings.api_keys_file is not None:
            with _about("api_keys_file"):
                Keys(settings.api_keys_file)  # a file that is no such file stops the start
        certificate = None
        if settings.tls_certificate is not None and settings.tls_key is not None:
            with _about("tls_certificate", "tls_key"):
                certificate = Certificate(settings.tls_certificate, settings.tls_key)
        tracing = _open_tracing() if settings.tracing else None
        listening = socket.socket(fileno=worker.listening) if worker else _listen(settings)
    except ValidationError as error:
        return _fail(first_problem(error))
    except (StartFailed, LoadFailed, OSError) as error:
        return _fail(str(error))
    logs = configure_logging(settings.log_format, settings.log_level, *([tracing.logs] if tracing else []))
    if worker is None:
        host, port = listening.getsockname()[:2]
        log.info("listening on %s://%s", "https" if certificate else "http", _authority(host, port))
        for line in unknown_variables(Settings.model_fields):
            log.warning("%s", line)
        if settings.api_keys_file is None and not ip_address(host).is_loopback:
            log.warning(
                "no api_keys_file is set: all clients that reach this address may use the models and read /metrics"
            )
        if settings.workers > 1:
            return _supervise(settings, listening)
    return _serve(settings, listening, worker, certificate, tracing, logs)


def _serve(
    settings: Settings,
    listening: socket.socket,
    worker: Worker | None,
    certificate: Certificate | None,
    tracing: "Tracing | None",
    logs: LogWriter,
) -> int:
    warnings.filterwarnings("ignore", module="PIL")  # it warns of odd metadata; what matters is checked

    def stop() -> None:
        server.should_exit = app.state.stopping = True

    app = create_app(settings, worker=worker, tracing=tracing, on_failure=stop)
    app.state.room = ConnectionLimit(allowed_connections(settings.max_connections))
    logs.on_dropped = app.state.metrics.log_lines_dropped.inc
    logs.on_end = lambda error: app.state.lifecycle.thread_ended("log", error)
    server = Server(
        uvicorn.Config(
            app,
            http=Connection,
            log_config=None,
            access_log=False,
            proxy_headers=False,  # the client's address is not used
            server_header=False,
            headers=[("X-Content-Type-Options", "nosniff")],
            ssl_context_factory=(lambda *_: certificate.context) if certificate else None,
            ws="none",
            backlog=BACKLOG,
            timeout_keep_alive=settings.keep_alive_ms / 1000,  # type: ignore[arg-type]  # goes to call_later as it is
            # Every request has its deadline; this only bounds connections that never end.
            timeout_graceful_shutdown=settings.request_timeout_ms // 1000 + 1,
        ),
        drain_grace=settings.drain_grace_ms / 1000,
        worker=worker,
        certificate=certificate,
    )
    # One that comes before uvicorn listens for it must not be lost; it raises those that came later again once it has
    # stopped, and a stop that was asked for is no failure.
    signal.signal(signal.SIGTERM, lambda *_: stop())
    signal.signal(signal.SIGINT, lambda *_: stop())
    signal.signal(signal.SIGHUP, lambda *_: None)  # until there are models to reload
    gc.collect()
    gc.freeze()  # what is loaded now stays; looking through it again and again would stop the event loop
    take_turns()
    server.run(sockets=[listening])
    if tracing:
        tracing.close()
    failure = app.state.lifecycle.failure
    if failure is None:
        return 0
    logs.line(_error(failure))
    if app.state.lifecycle.hung:
        logging.shutdown()
        os._exit(HUNG)  # the interpreter would wait for the thread that hangs
    return 1


def _open_tracing() -> "Tracing":
    try:  # here, so that it is loaded only where it was asked for
        from aaserve.service.observability.tracing import Tracing
    except ImportError as error:
        install = "pip install --constraint constraints.txt '.[cpu,otel]'"
        raise StartFailed(f"tracing: expected the extra otel ({install}), found no module {error.name}") from error
    return Tracing()


def _supervise(settings: Settings, listening: socket.socket) -> int:
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="aaserve-metrics-", dir=memory if memory.is_dir() else None) as folder:
        return Supervisor(settings.workers, listening, folder).run()


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:  # the latter of a name that cannot be one
        setting = as_written("port" if getattr(error, "errno", None) in (EACCES, EADDRINUSE) else "host")
        address = _authority(settings.host, settings.port)
        reason = str(getattr(error, "strerror", None) or error).partition(" (while")[0]
        raise StartFailed(f"{setting}: expected to listen on {address}, found: {reason}") from error


def _authority(host: str, port: int) -> str:
    """As in a URL, where an IPv6 address stands in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@contextmanager
def _about(*settings: str) -> Iterator[None]:
    """Have an error name the settings that it is about."""
    try:
        yield
    except (BundleError, StartFailed) as error:
        raise StartFailed(f"{', '.join(map(as_written, settings))}: {error}") from error


def _fail(message: str) -> int:
    print(_error(message), file=sys.stderr)
    return 1


def _error(message: str) -> str:
    return f"error: {message}"


if __name__ == "__main__":
    sys.exit(main())
