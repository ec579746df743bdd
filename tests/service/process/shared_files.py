"""Files that the workers of a service share."""

from pathlib import Path


def connection_counts(worker: int | str) -> Path:
    """What this process has mapped for service/process/connection_counts.py."""
    mapped = (line.split()[-1] for line in Path(f"/proc/{worker}/maps").read_text().splitlines())
    return next(Path(path) for path in mapped if path.endswith("/connections"))
