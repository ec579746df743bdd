"""`make audit`: a finding fails; without a network it says so. A stub replaces pip-audit."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.helpers import ROOT

ANSWERS = {
    "nothing found": (0, "No known vulnerabilities found", 0, "No known vulnerabilities found"),
    "a vulnerability": (1, "Found 1 known vulnerability in 1 package", 1, "Found 1 known vulnerability"),
    "no network": (1, "Traceback …\nrequests.exceptions.ConnectionError: no route", 0, "NOT AUDITED"),
    "a mistake of ours": (1, "ERROR:pip_audit._cli:requirement 'numpy' is not pinned", 1, "is not pinned"),
}


@pytest.mark.parametrize(("status", "says", "expected", "message"), ANSWERS.values(), ids=ANSWERS.keys())
def test_an_audit_fails_only_for_what_it_found(
    tmp_path: Path, status: int, says: str, expected: int, message: str
) -> None:
    (tmp_path / "says").write_text(f"{says}\n")
    stand_in = tmp_path / "pip-audit"
    stand_in.write_text(f'#!/bin/sh\necho "$@"\ncat {tmp_path}/says >&2\nexit {status}\n')
    stand_in.chmod(0o755)
    done = subprocess.run(
        [ROOT / ".ci" / "audit"], env={**os.environ, "PIP_AUDIT": str(stand_in)}, capture_output=True, text=True
    )
    assert done.returncode == expected
    assert message in done.stderr
    assert "--requirement constraints.txt" in done.stdout
