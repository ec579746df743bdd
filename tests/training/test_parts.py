"""A checkpoint in small parts, and back."""

from pathlib import Path

import pytest

from aaserve.training.parts import main


def test_parts_joined_are_the_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "last.pt"
    content = bytes(range(256)) * 4096 * 2 + b"rest"  # 2 MiB and a little
    path.write_bytes(content)
    assert main(["split", str(path), "--mib", "1"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{path}{suffix}" for suffix in (".parts.json", ".part-001", ".part-002", ".part-003")
    ]
    path.unlink()
    assert main(["join", str(path)]) == 0
    assert path.read_bytes() == content


def test_what_is_missing_changed_or_in_the_way_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path, part = tmp_path / "last.pt", tmp_path / "last.pt.part-001"
    path.write_bytes(b"content")
    assert main(["split", str(path)]) == 0

    def complaint(*arguments: str) -> str:
        capsys.readouterr()
        assert main([*arguments]) == 1
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1
        return error

    assert "exists already" in complaint("join", str(path))
    path.unlink()
    part.write_bytes(b"contend")
    assert "not the part" in complaint("join", str(path))
    part.unlink()
    assert "part-001" in complaint("join", str(path))
    assert "No such file" in complaint("split", str(path))
    assert "at least 1" in complaint("split", str(path), "--mib", "0")
    assert not path.exists()
