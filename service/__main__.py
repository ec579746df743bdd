"""python -m service [--repository DIR] [--host H] [--port P] [--provider auto|cpu|cuda|tensorrt] …

settings --> bundles opened and checked --> HTTP up --> models loaded and warmed up --> ready ... SIGTERM --> drained
"""

import gc
import logging
import signal
import socket
import sys
import warnings
from types import FrameType

import uvicorn
from pydantic import ValidationError
from pydantic_settings import CliApp

from bundle.bundle import Bundle, open_bundle, scan_repository
from bundle.errors import BundleError
from service.app import create_app
from service.settings import Settings

log = logging.getLogger("aaserve")


class Server(uvicorn.Server):
    """uvicorn that says where it listens, and with readiness off from the moment a stop is asked for."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for server in self.servers:
            for listening in server.sockets:
                log.info("listening on http://%s:%d", *listening.getsockname()[:2])

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.started:
            self.config.app.state.lifecycle.drain()  # type: ignore[union-attr]
        super().handle_exit(sig, frame)


def main() -> int:
    try:
        settings = CliApp.run(Settings)
        bundles = _highest_versions(settings)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        return _fail(f"{'.'.join(map(str, first['loc']))}: {first['msg']}, found {first['input']!r}")
    except BundleError as error:
        return _fail(str(error))

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="PIL")  # it warns of odd metadata; what matters is checked

    def stop() -> None:
        server.should_exit = True

    app = create_app(settings, bundles, on_failure=stop)
    server = Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=max(1, round(settings.drain_grace_ms / 1000)),
        )
    )
    # uvicorn raises the signal again once it has stopped; a stop that was asked for is no failure.
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, lambda *_: None)
    gc.collect()
    gc.freeze()  # what is loaded now stays; looking through it again and again would stop the event loop
    server.run()
    failure = app.state.lifecycle.failure
    return _fail(failure) if failure else 0


def _highest_versions(settings: Settings) -> list[Bundle]:
    """The highest version of each model; `scan_repository` gives versions in ascending order."""
    highest = {folder.parent.name: folder for folder in scan_repository(settings.repository)}
    return [open_bundle(folder) for folder in highest.values()]


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
