"""The clients of docs/requests.md that people copy: taken out of the document, before the real service.

Between them and the service is what refuses now and then: it answers what the test says, and then hands on.
"""

import json
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from tests.clients.environments import environment
from tests.helpers import EXAMPLES, ROOT, RunningService

SECTION = (ROOT / "docs" / "requests.md").read_text().split("\n## A client to copy\n")[1].split("\n## ")[0]
COMMON, *ONE_EACH = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
[FETCH] = re.findall(r"```js\n(.*?)```", SECTION, re.DOTALL)
PICTURE = EXAMPLES / "cat.jpg"

PYTHON = """
import sys
front, closed, path = sys.argv[1:]
picture = open(path, "rb").read()
found = {"answer": ask(picture, front, top_k=1)}
for name, address, parameters in (
    ("refused", front, {"top_k": 0}), ("busy", front + "/busy", {}), ("closed", closed, {"allowed": 0.3})
):
    try:
        ask(picture, address, **parameters)
    except Exception as error:
        found[name] = [getattr(error, "status", None), getattr(error, "code", None)]
print(json.dumps(found))
"""
ASK = {
    "requests": "ask = classify\n",
    "httpx": "def ask(*arguments, **options):\n    with httpx.Client() as client:\n"
    "        return classify(client, *arguments, **options)\n",
    "aiohttp": "def ask(*arguments, **options):\n    async def alone():\n"
    "        async with aiohttp.ClientSession() as session:\n"
    "            return await classify(session, *arguments, **options)\n    return asyncio.run(alone())\n",
}
NODE = """
import { readFileSync } from "node:fs";
const [front, closed, path] = process.argv.slice(-3);
const picture = readFileSync(path);
const found = { answer: await classify(picture, front, { top_k: 1 }) };
for (const [name, address, options] of [
  ["refused", front, { top_k: 0 }], ["busy", front + "/busy", {}], ["closed", closed, { allowed: 300 }],
]) {
  await classify(picture, address, options).catch((error) => {
    found[name] = [error.status ?? null, error.code && error.status ? error.code : null];
  });
}
console.log(JSON.stringify(found));
"""


class Front(ThreadingHTTPServer):
    """Answers `first` in turn, then what the service answers; always 429 below /busy. Keeps each path that came."""

    daemon_threads = True

    def __init__(self, service: RunningService, *first: tuple[int, dict[str, str]]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.service, self.first = service, list(first)
        self.paths: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Front
    BUSY: ClassVar = (429, {"Retry-After": "60"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.paths.append(self.path.partition("?")[0])
        if self.path.startswith("/busy"):
            self._answer(*self.BUSY, b'{"code": "queue_full", "detail": "full"}')
        elif self.server.first:
            self._answer(*self.server.first.pop(0), b"<html>not of the service</html>")
        else:
            headers = {"Content-Type": self.headers["Content-Type"]}
            answer = self.server.service.client.post(self.path, content=body, headers=headers)
            self._answer(answer.status_code, {"Content-Type": answer.headers["Content-Type"]}, answer.content)

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def fronted(service: RunningService, *first: tuple[int, dict[str, str]]) -> Iterator[Front]:
    with Front(service, *first) as front:
        thread = threading.Thread(target=front.serve_forever)
        thread.start()
        yield front
        front.shutdown()
        thread.join()


def command(client: str) -> list[str]:
    """What runs the client's code and prints what came of it."""
    if client == "fetch":
        node = shutil.which("node")
        if node is None:
            pytest.skip("no Node.js here: apt-get install nodejs")
        return [node, "--input-type=module", "--eval", FETCH + NODE, "--"]
    [code] = [block for block in ONE_EACH if f"import {client}\n" in block]
    python = environment("tritonclient") if client == "aiohttp" else sys.executable  # which needs aiohttp too
    return [str(python), "-c", COMMON + code + ASK[client] + PYTHON]


@pytest.mark.parametrize("client", [*ASK, "fetch"])
def test_a_client_of_the_document_asks_again_when_that_helps_and_only_then(
    service: RunningService, client: str
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        closed = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with fronted(service, (429, {"Retry-After": "0"}), (503, {})) as front:
            address = f"http://127.0.0.1:{front.server_address[1]}"
            done = subprocess.run(
                [*command(client), address, closed, str(PICTURE)], capture_output=True, text=True, timeout=120
            )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    expected = service.classify(PICTURE.read_bytes(), top_k=1).json()
    assert found["answer"]["predictions"] == expected["predictions"]
    assert found["refused"] == [422, "invalid_parameter"]
    assert found["busy"] == [429, "queue_full"]  # 60 seconds are longer than allowed
    assert found["closed"] == [None, None]
    assert front.paths == ["/classify"] * 4 + ["/busy/classify"]
