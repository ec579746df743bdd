"""The version of the service, as its clients see it; the same as in pyproject.toml."""

VERSION = "0.1.0"
