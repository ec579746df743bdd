"""What users call a setting: an option, a variable of the environment; what they misspelt or set wrong."""

import argparse
import difflib
import math
import os
import re
import sys
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import TypeVar

from pydantic import ValidationError

PREFIX = "AASERVE_"
Number = TypeVar("Number", int, float)
# Kubernetes sets these in every pod of a namespace that has a Service called aaserve or, say, aaserve-canary.
_SERVICE_LINK = re.compile(r"(\w+_)?(SERVICE_(HOST|PORT)|PORT_\d+_(TCP|UDP|SCTP))(_\w+)?")
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://.*")  # the value of AASERVE_CANARY_PORT


def as_written(name: str) -> str:
    """A setting as the user gave it: the option or the variable; its plain name if it is a default."""
    option = f"--{name.replace('_', '-')}"
    given = {argument.partition("=")[0] for argument in sys.argv[1:]}
    if given & {option, f"--no-{option[2:]}"}:
        return option
    return next((variable for variable in os.environ if variable.upper() == PREFIX + name.upper()), name)


def first_problem(error: ValidationError) -> str:
    """What is wrong with the settings, as one line."""
    first = error.errors(include_url=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:  # settings that do not go together
        return message
    return f"{as_written(str(first['loc'][0]))}: {message}, found {first['input']!r}"


def unknown_variables(settings: Collection[str]) -> list[str]:
    """A line for each variable of ours in the environment that is none of the settings, most likely a misspelt one."""
    known = [name.upper() for name in settings]
    lines = []
    for variable in sorted(os.environ):
        prefix, name = variable[: len(PREFIX)].upper(), variable[len(PREFIX) :].upper()
        link = _SERVICE_LINK.fullmatch(name) or _SERVICE_ADDRESS.fullmatch(os.environ[variable])
        if prefix == PREFIX and name not in known and not link:
            near = difflib.get_close_matches(name, known, n=1)
            lines.append(f"{variable} is no setting" + (f"; did you mean {PREFIX}{near[0]}?" if near else ""))
    return lines


def number_option(
    kind: Callable[[str], Number], expected: str, *, least: float, most: float = math.inf
) -> Callable[[str], Number]:
    """The type of an option for argparse, whose own words about a wrong value would name the function that reads it.

    Args:
        expected: the number, in words.
    """

    def read(text: str) -> Number:
        with suppress(ValueError):
            if least <= (value := kind(text)) <= most:
                return value
        raise argparse.ArgumentTypeError(f"expected {expected}, found {text!r}")

    return read
