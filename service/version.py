"""The version of the service. pyproject.toml and the image's label take it from here."""

VERSION = "0.1.0"
