"""The error of an export: one line for the user."""


class ExportError(Exception):
    """Nothing was written; the message says why."""
