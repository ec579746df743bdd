"""What can go wrong with an export, in one line for the person who typed the command."""


class ExportError(Exception):
    """Nothing was written; the message says why."""
