"""python watched_service.py FILE … : the service, with what it asks of the interpreter written down, one event a line.

The events are Python's audit events (PEP 578), which no code can avoid; uvloop and ONNX Runtime are C and are watched
by strace instead.
"""

import os
import runpy
import sys
from pathlib import Path

WATCHED = (
    *("socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname"),
    *("urllib.Request", "http.client.connect", "pickle.find_class"),
    *("subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn"),
)


def main() -> None:
    file = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in WATCHED:
            os.write(file, f"{event} {arguments!r}\n".encode())

    sys.addaudithook(hook)
    sys.path[0] = str(Path.cwd())
    runpy.run_module("service", run_name="__main__", alter_sys=True)


main()
