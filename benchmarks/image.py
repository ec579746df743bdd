"""python -m benchmarks.image --output FILE [--target cpu|gpu]: needs root; installs buildah and debootstrap on Debian

Build the container image, run it as Kubernetes would with `restricted` and a read-only root, and look what it weighs.

Where no container engine is, image.sh builds with buildah, on a Debian of its own instead of python:3.11-slim. The run
is a chroot: the image's user, environment and entry point, a read-only root, and every shell deleted from it first.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aaserve.service.version import VERSION
from benchmarks.circumstances import ROOT, write_result

TOOL = ROOT / "benchmarks" / "image.sh"
BUILDAH = {**os.environ, "BUILDAH_ISOLATION": "chroot", "STORAGE_DRIVER": "vfs"}  # as image.sh
SHELLS = ("sh", "bash", "dash", "rbash", "busybox")
LIMIT_MB = 350  # above the base, of the cpu image
# argv: root folder, uid, gid, working directory, what is mounted over /mnt/models or nothing, command …
ENTER = """
import os, sys
root, uid, gid, folder, models, *command = sys.argv[1:]
import warnings  # which get_exec_path would look for in the image
def mount(*arguments): assert os.spawnlp(os.P_WAIT, "mount", "mount", *arguments) == 0, arguments
mount("--bind", root, root)
if models: mount("--bind", models, root + "/mnt/models")
mount("-o", "remount,ro,bind", root)
mount("--rbind", "/dev", root + "/dev")
mount("-t", "proc", "proc", root + "/proc")
os.chroot(root); os.chdir(folder); os.setgroups([]); os.setgid(int(gid)); os.setuid(int(uid))
program = next(path for folder in os.get_exec_path() if os.path.exists(path := folder + "/" + command[0]))
os.execv(program, command)
"""


class Container:
    """A built image, unpacked, to be run as often as one likes."""

    def __init__(self, image: str, root: Path) -> None:
        self.root = root
        self.config = json.loads(buildah("inspect", "--type", "image", image))["Docker"]["config"]

    def start(self, command: list[str], *, models: Path | None = None, **environment: str) -> subprocess.Popen[str]:
        uid, gid = self.config["User"].split(":")
        arguments = [self.root, uid, gid, self.config["WorkingDir"], models or "", *command]
        variables = dict(variable.split("=", 1) for variable in self.config["Env"])
        return subprocess.Popen(
            # exec'd all the way: the process that is signalled is the service itself
            ["unshare", "--mount", sys.executable, "-c", ENTER, *map(str, arguments)],
            env={**variables, **environment},
            stderr=subprocess.PIPE,
            text=True,
        )

    @contextmanager
    def serving(self, **options: Any) -> Iterator[str]:
        """The address of the running service; it is stopped by SIGTERM and must end with status 0."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        process = self.start(self.config["Entrypoint"], AASERVE_PORT=port, **options)
        health = self.config["Healthcheck"]["Test"]
        assert health[0] == "CMD", "a health check that needs no shell"
        try:
            end = time.monotonic() + 60
            while not self.healthy(health[1:], port):
                assert process.poll() is None, process.stderr.read()
                assert time.monotonic() < end, "the service is alive and its health check never succeeded"
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
            process.send_signal(signal.SIGTERM)
            status = process.wait(30)
            assert status == 0, f"expected status 0 after SIGTERM, found {status}: {process.stderr.read()}"
        finally:
            process.kill()
            process.wait()
            process.stderr.close()

    def healthy(self, command: list[str], port: str) -> bool:
        with self.start(command, AASERVE_PORT=port) as check:
            check.communicate()
            return check.returncode == 0


def check(container: Container, **environment: str) -> dict[str, object]:
    """Serve the shipped bundle, then another in its place; what was found."""
    picture = (ROOT / "examples" / "rocket.jpg").read_bytes()
    with container.serving(**environment) as url:
        request = urllib.request.Request(f"{url}/classify", picture, {"Content-Type": "image/jpeg"})
        answer = json.loads(urllib.request.urlopen(request).read())
        metrics = urllib.request.urlopen(f"{url}/metrics").read().decode()
        assert 'aaserve_images_total{format="jpeg",outcome="decoded"} 1.0' in metrics, metrics
        assert json.loads(urllib.request.urlopen(f"{url}/v2").read())["version"] == VERSION
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        shutil.copytree(ROOT / "model_repository" / "aa-cifar100" / "1", Path(folder) / "mounted" / "1")
        # As docs/runbook.md has it: a repository is checked by a start with --strict.
        with container.start(
            [*container.config["Entrypoint"], "--strict", "--port", "0"], models=Path(folder), **environment
        ) as strict:
            said = strict.communicate(timeout=60)[1].splitlines()[-1]
        assert said.startswith("error: "), said
        assert said.endswith("as its folders mounted/1, found aa-cifar100/1"), said
        manifest = Path(folder) / "mounted" / "1" / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"name": "aa-cifar100"', '"name": "mounted"'))
        with container.serving(models=Path(folder), **environment) as url:
            models = json.loads(urllib.request.urlopen(f"{url}/models").read())
            assert [model["name"] for model in models["models"]] == ["mounted"], models
    return {
        "user": container.config["User"],
        "stop_signal": container.config["StopSignal"],
        "labels": container.config["Labels"],
        "checked": [
            "read-only root without a shell: starts, is healthy, classifies, shows metrics, ends with 0 on SIGTERM",
            "/mnt/models: what is mounted there is served in the place of the shipped bundle",
            "--strict: a damaged repository ends it with one line, as the runbook shows",
        ],
        "first_label": answer["predictions"][0]["label"],
    }


def size(folder: Path) -> int:
    """Bytes of all files below, each once."""
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        found[status.st_ino] = status.st_size
    return sum(found.values())


def weights(root: Path, base: int) -> dict[str, object]:
    """MB (10⁶ bytes) of the image, of what it adds to its base, and of the largest parts of that."""
    packages = next(root.glob("venv/lib/python3*/site-packages"))
    parts = {
        **{f"/venv: {path.name}": size(path) for path in packages.iterdir() if path.is_dir()},
        "/mnt/models": size(root / "mnt" / "models"),
    }
    largest = sorted(parts.items(), key=lambda part: -part[1])[:12]
    whole = size(root)
    return {
        "mb": megabytes(whole),
        "mb_of_the_base": megabytes(base),
        "mb_above_the_base": megabytes(whole - base),
        "mb_of_the_largest_parts": {name: megabytes(part) for name, part in largest},
    }


def megabytes(count: int) -> float:
    return round(count / 1e6, 1)


def buildah(*arguments: str) -> str:
    done = subprocess.run(["buildah", *arguments], env=BUILDAH, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"error: buildah {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


@contextmanager
def unpacked(image: str) -> Iterator[Path]:
    container = buildah("from", "--pull-never", image)
    try:
        yield Path(buildah("mount", container))
    finally:
        buildah("rm", container)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.image", description=__doc__.splitlines()[2])
    parser.add_argument(
        "--target", choices=["cpu", "gpu"], default="cpu", help="stage of the Dockerfile (default: cpu)"
    )
    parser.add_argument("--tool", type=Path, default=TOOL, help="image.sh (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    if os.geteuid() != 0 or not arguments.tool.exists():
        raise SystemExit(f"error: expected to be root and to find {arguments.tool}")
    image = f"aaserve:{arguments.target}"
    revision = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    labels = [f"--build-arg=VERSION={VERSION}", f"--build-arg=REVISION={revision}"]
    subprocess.run([arguments.tool, "build", "--target", arguments.target, "-t", image, *labels, ROOT], check=True)
    base_image = next(line.split()[1] for line in (ROOT / "Dockerfile").read_text().splitlines() if line[:5] == "FROM ")
    with unpacked(f"docker.io/library/{base_image}") as base:
        base_size = size(base)
    with unpacked(image) as root:
        measured = weights(root, base_size)
        for shell in SHELLS:
            for folder in ("bin", "usr/bin"):
                (root / folder / shell).unlink(missing_ok=True)
        # There is no GPU here: of that image only the way around CUDA can be shown.
        environment = {"AASERVE_PROVIDER": "cpu"} if arguments.target == "gpu" else {}
        found = check(Container(image, root), **environment)
    write_result(arguments.output, {"target": arguments.target, **measured, **found})
    print(arguments.output.read_text())
    if arguments.target == "cpu" and measured["mb_above_the_base"] > LIMIT_MB:
        raise SystemExit(f"error: expected at most {LIMIT_MB} MB above the base")
    return 0


if __name__ == "__main__":
    sys.exit(main())
