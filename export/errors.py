"""The errors of an export: one line for the user."""


class ExportError(Exception):
    """Nothing was written; the message says why."""


def first_line(error: BaseException) -> str:
    """The reason that another library gives, or else its class."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
