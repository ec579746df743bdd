"""Certificate and key --> what every connection is encrypted with, read again on SIGHUP."""

import logging
import ssl
from pathlib import Path

from aaserve.bundle.files.text import check_regular
from aaserve.service.errors import StartFailed

log = logging.getLogger("aaserve")


class Certificate:
    """A server's certificate; `context` speaks TLS 1.2 or newer and asks no certificate of clients.

    Args:
        chain: PEM file, the server's own certificate first.
        key: PEM file of its key.

    Raises:
        StartFailed: one cannot be read, is not PEM, needs a password, or they do not belong together.
    """

    def __init__(self, chain: Path, key: Path) -> None:
        self._chain = chain
        self._key = key
        self.context = self._fresh()

    def renew(self) -> None:
        """Use for new connections what the files hold now; if that is no good, go on as before and say so."""
        try:
            self._fresh()  # tried first: loading half of it would spoil the one in use
            self.context.load_cert_chain(self._chain, self._key)
            log.info("%s: read again", self._chain)
        except StartFailed as error:
            log.error("the certificate stays as it was: %s", error)

    def _fresh(self) -> ssl.SSLContext:
        for path in (self._chain, self._key):
            try:
                check_regular(path)
                path.open("rb").close()
            except OSError as error:
                reason = error.strerror or error
                raise StartFailed(f"{path}: expected a readable PEM file, found {reason}") from error
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(self._chain, self._key, password="")  # never ask for one at the terminal
        except (ssl.SSLError, ValueError) as error:
            reason = getattr(error, "reason", None) or "something else, or a key that needs a password"
            raise StartFailed(
                f"{self._chain}, {self._key}: expected a certificate and its key, found {reason}"
            ) from error
        return context
