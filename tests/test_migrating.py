"""The commands of docs/migrating.md work as they stand there, and answer what stands there."""

import re
import subprocess

import pytest

from tests.clients.environments import environment
from tests.helpers import ROOT, RunningService

DOCUMENT = (ROOT / "docs" / "migrating.md").read_text()
BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", DOCUMENT, re.DOTALL)


def test_everyone_finds_a_command() -> None:
    for section in DOCUMENT.split("\n## ")[1:]:
        assert "```console" in section
        assert "```sh" in section


@pytest.mark.parametrize(("language", "block"), BLOCKS, ids=[block.split("\n")[0] for _, block in BLOCKS])
def test_a_command_gives_its_answer(service: RunningService, language: str, block: str) -> None:
    expected = re.findall(r"^# → (.*)$", block, re.MULTILINE)
    command = ["bash", "-euc"] if language == "sh" else [environment("tritonclient"), "-c"]
    here = block.replace("localhost:8080", service.client.base_url.netloc.decode())
    done = subprocess.run([*command, here], cwd=ROOT, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    answer = done.stdout.decode(errors="replace")
    assert expected
    for each in expected:
        assert each in answer
