"""Every command in README.md and docs/*.md is run, in a copy of the tree, and prints what the document shows.

How to write one:
- ```console: lines that begin with `$ ` are commands, with `> ` they go on; what follows is what they print, stdout and
  stderr, with `…` for what varies. Nothing shown: anything may be printed, but the command has to succeed. One that
  fails shows what it says.
- ```sh: commands only, which all have to succeed.
- ```python: a script; `# → text` in it is part of what it prints.
- `<!-- not run: REASON -->` above a block: it is not. `<!-- with NAME -->` above a Python script: in the environment
  of tests/clients/NAME.txt.
- A document is one shell session, from top to bottom. `make serve`, `aaserve serve` and `python -m service`
  stay in the background until the document ends. 8080 stands for a free port, 8081 and so on for others; a second
  service on a port fails.
- The runbook is for those who have the image, so it is run with the folders of the image only: IMAGE.
- The test environment has everything installed, so installing is skipped: SUBSTITUTES.
- Our commands are forked from a process that has imported what they need: tests/forked_python.py.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.clients.environments import environment
from tests.helpers import REPOSITORY, ROOT

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SUBSTITUTES = {
    r"make serve\b.*": "python -m service",
    r"make install": "true",
    r"\. \.venv/bin/activate": "true",
    r"pip install '\.\[.*\]'": "true",
    r"aaserve (.*)": r"python -m aaserve \1",  # of the copy of the tree, and not of what is installed
}
# Not __pycache__: each document would compile our sources anew.
LEFT_OUT = shutil.ignore_patterns(".git", ".venv*", "runs", "build", "*_cache", ".hypothesis")
STARTS_SERVICE = re.compile(
    r"^((?:\w+=\S* )*python -m (?:aaserve serve|service)\b(?:.*\\\n)*.*?) *(?:&|# .*)? *$", re.MULTILINE
)
COMMAND_WITHOUT_FENCE = re.compile(
    r"^ {4,}(\$ |(\.venv/bin/)?(aaserve|python) |curl |docker |helm |kubectl |make |pip ).*", re.MULTILINE
)
COPIED = re.findall(r"^COPY (\w+) ", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
IMAGE = [name for name in COPIED if (ROOT / name).is_dir()]
FOLDERS = {"runbook": {*IMAGE, "examples"}}  # a caller has the pictures
HAS_BUNDLES = "gpu"  # this document needs the fixture random_bundles
PRELUDE = r"""
exec 2>&1
services=
serve() {
    local log=$(mktemp) service
    "$@" > "$log" 2>&1 &
    service=$!
    until grep -qw ready "$log" || ! kill -0 "$service"; do sleep 0.05; done 2> /dev/null
    cat "$log"
    rm "$log"
    kill -0 "$service" 2> /dev/null || { wait "$service"; return; }
    services="$services $service"
}
trap '[ -z "$services" ] || { kill $services; wait $services; }' EXIT
"""
BEGIN, END = "\x1e", "\x1f"


@dataclass(frozen=True)
class Block:
    """A fenced block; `comment` stands above it."""

    document: Path
    line: int
    language: str
    text: str
    comment: str

    @property
    def place(self) -> str:
        return f"{self.document.name}:{self.line}"

    @property
    def not_run(self) -> str | None:
        """Why not."""
        found = re.fullmatch(r"<!-- not run: (.+) -->", self.comment)
        return found[1] if found else None


@dataclass(frozen=True)
class Command:
    """What to give to the shell, and what is shown of what it prints."""

    place: str
    script: str
    shown: str = ""
    contained: tuple[str, ...] = ()
    stops: bool = False  # at the first failure within


def blocks(document: Path) -> list[Block]:
    found: list[Block] = []
    lines = document.read_text().splitlines()
    opened = None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if opened is None:
            opened = number
            continue
        above = [each for each in lines[:opened] if each][-1:]
        found.append(
            Block(document, opened + 2, lines[opened][3:], "\n".join(lines[opened + 1 : number]), "".join(above))
        )
        opened = None
    assert opened is None, f"{document}: a block has no end"
    return found


def commands(block: Block) -> list[Command]:
    if block.language == "sh":
        return [Command(block.place, block.text, stops=True)]
    if block.language == "python":
        client = re.fullmatch(r"<!-- with (\w+) -->", block.comment)
        interpreter = environment(client[1]) if client else "python"
        contained = tuple(re.findall(r"# → (.*)$", block.text, re.MULTILINE))
        return [Command(block.place, f"{interpreter} - <<'SCRIPT'\n{block.text}\nSCRIPT", contained=contained)]
    if block.language == "console":
        return transcript(block)
    return []


def transcript(block: Block) -> list[Command]:
    found: list[Command] = []
    lines = block.text.splitlines()
    while lines:
        script = lines.pop(0).removeprefix("$ ")
        while lines and lines[0].startswith("> "):
            script += "\n" + lines.pop(0).removeprefix("> ")
        shown = []
        while lines and not lines[0].startswith("$ "):
            shown.append(lines.pop(0))
        found.append(Command(block.place, script, "\n".join(shown)))
    return found


def run(commands: list[Command], folder: Path, python: Path) -> list[tuple[str, int | None]]:
    """What each printed, and its status; None for one that never came to its end."""
    ports = {str(8080 + number): str(port) for number, port in enumerate(free_ports(3))}
    script = PRELUDE
    for command in commands:
        here = command.script
        for pattern, substitute in SUBSTITUTES.items():
            here = re.sub(f"^{pattern}$", substitute, here, flags=re.MULTILINE)
        here = re.sub(r"\b80[0-9]{2}\b", lambda found: ports.get(found[0], found[0]), here)
        here = STARTS_SERVICE.sub(rf"serve env AASERVE_PORT={ports['8080']} \1", here) if "--help" not in here else here
        if command.stops:
            here = f"set -e\n{here}\nset +e"
        script += f"printf '{BEGIN}'\n{here}\nprintf '{END}%d' $?\n"
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("AASERVE_", "OTEL_"))}
    variables |= {
        "PATH": f"{python.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "AASERVE_LOG_FORMAT": "console",  # what people see, at a terminal
    }
    done = subprocess.run(["bash", "-c", script], cwd=folder, env=variables, stdout=subprocess.PIPE, timeout=300)
    printed = done.stdout.decode(errors="replace")
    for written, port in ports.items():
        printed = re.sub(rf"\b{port}\b", written, printed)
    results: list[tuple[str, int | None]] = []
    for part in printed.split(BEGIN)[1:]:
        output, _, status = part.partition(END)
        results.append((output.strip(), int(re.match(r"\d+", status)[0]) if status else None))
    return results + [("", None)] * (len(commands) - len(results))


def complaint(command: Command, output: str, status: int | None) -> str | None:
    """What is wrong with what a command did, if anything is."""
    pattern = re.escape(command.shown.strip()).replace("…", ".*?")
    if command.shown and not re.fullmatch(pattern, output, re.DOTALL):
        reason = f"shows\n{command.shown}\nand printed"
    elif missing := [text for text in command.contained if text not in output]:
        reason = f"shows {missing[0]!r} and printed"
    elif status is None or (status and not command.shown):
        reason = f"ended with status {status} and printed"
    else:
        return None
    return f"{command.place}: {command.script}\n{reason}\n{output}\n"


def free_ports(count: int) -> list[int]:
    """Different ones, because all are held until the last is found."""
    with ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [listening.getsockname()[1] for listening in held]


def run_document(document: Path, folder: Path, python: Path) -> list[str]:
    """Everything that is wrong with the commands of a document."""
    wanted = [command for block in blocks(document) if not block.not_run for command in commands(block)]
    if not wanted:
        return []
    for name in FOLDERS.get(document.stem, {"."}):
        shutil.copytree(ROOT / name, folder / name, ignore=LEFT_OUT, symlinks=True)
    if document.stem == HAS_BUNDLES:
        (folder / "build").symlink_to(ROOT / "build")
    results = run(wanted, folder, python)
    return [
        wrong
        for command, result in zip(wanted, results, strict=True)
        if (wrong := complaint(command, *result)) is not None
    ]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.stem)
def test_the_commands_of_a_document_do_what_it_says(
    document: Path, tmp_path: Path, python: Path, request: pytest.FixtureRequest
) -> None:
    if document.stem == HAS_BUNDLES:
        request.getfixturevalue("random_bundles")
    wrong = run_document(document, tmp_path / "aaserve", python)
    assert not wrong, "\n".join(wrong)


MARKED = [block for document in DOCUMENTS for block in blocks(document) if block.not_run]


@pytest.mark.parametrize("block", MARKED, ids=lambda block: block.place)
def test_a_marked_command(block: Block) -> None:
    pytest.skip(block.not_run)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.stem)
def test_no_command_hides_from_these_tests(document: Path) -> None:
    for block in blocks(document):
        # js: tests/clients/test_documented_clients.py runs it
        assert block.language in {"console", "sh", "python", "js", "text", "json", "toml", "yaml"}, block.place
        assert block.language != "console" or block.text.startswith("$ "), block.place
    prose = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert not COMMAND_WITHOUT_FENCE.search(prose), f"{document}: a command without ```console or ```sh"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("```console\n$ echo hello\nhello\n```", None),
        ("```console\n$ echo hello 17 times\nhello … times\n```", None),
        ("```console\n$ echo hello\ngoodbye\n```", "shows\ngoodbye"),
        ("```console\n$ false\n```", "status 1"),
        ("```console\n$ false\n$ echo on\non\n```", "status 1"),
        ("```console\n$ sh -c 'echo no; exit 2'\nno\n```", None),
        ("```sh\nfalse\ntrue\n```", "status None"),
        ("```sh\nname=value\n```\n```console\n$ echo $name\nvalue\n```", None),
        ("```console\n$ cat <<'END'\n> text\n> END\ntext\n```", None),
        ("```console\n$ echo one \\\n> two\none two\n```", None),
        ("```python\nprint(6 * 7)  # → 42\n```", None),
        ("```python\nprint(6 * 7)  # → 43\n```", "'43'"),
        ("<!-- not run: needs docker -->\n```sh\nfalse\n```", None),
        ("<!-- not run: -->\n```sh\nfalse\n```", "status None"),
        ("```console\n$ python -m service --repository nowhere\nerror: --repository: nowhere…\n```", None),
        ("```console\n$ python -m service --max-batch-size 0\n```", "status 1"),
        ("```console\n$ python -m service\n$ python -m service\n```", "in use"),
        ("```console\n$ python -m service\n$ aaserve serve --port 8081\n```", None),
        ('```console\n$ make serve\n$ curl -s localhost:8080/health/ready\n{"state":"ready"}\n```', None),
    ],
    ids=lambda value: value.replace("\n", " ")[:60] if value else "fine",
)
def test_wrong_commands_of_a_document_are_found(text: str, said: str | None, tmp_path: Path, python: Path) -> None:
    document = tmp_path / "made-up.md"
    document.write_text(text)
    found = [command for block in blocks(document) if not block.not_run for command in commands(block)]
    for name in ("aaserve", "service", "bundle"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "model_repository").symlink_to(REPOSITORY)
    wrong = [complaint(command, *result) for command, result in zip(found, run(found, tmp_path, python), strict=True)]
    seen = [each for each in wrong if each]
    assert bool(seen) == bool(said), seen
    assert not said or said in seen[0]
