"""`--arch package.module:function` --> a network from the user's own code. The user asks for this code to run; a
checkpoint cannot.
"""

import difflib
import inspect
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor, nn

from aaserve.export.errors import ExportError


def is_own(architecture: str) -> bool:
    """True for `package.module:function`, False for the name of one of our networks."""
    return ":" in architecture


def build_own(target: str, options: Mapping[str, object]) -> nn.Module:
    """Call the function that `target` names with `options`; modules in the current folder are found.

    Returns:
        The network in evaluation mode, on the CPU, in float32.

    Raises:
        ExportError: no such function, it does not take `options`, it raises, or it returns something else.
    """
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.append(folder)  # at the end, so that files there do not shadow installed modules
    build = _function(target)
    try:
        inspect.signature(build).bind(**options)
    except TypeError as error:
        raise ExportError(f"--arch {target}: {error}; give its arguments with --arch-option NAME=VALUE") from error
    except ValueError:  # functions in C do not describe their arguments
        pass
    network = _run(f"--arch {target}", lambda: build(**options))
    if not isinstance(network, nn.Module):
        raise ExportError(f"--arch {target}: expected it to return a torch.nn.Module, found {_kind(network)}")
    return network.float().cpu().eval()


def check_answer(network: nn.Module, crop: tuple[int, int], classes: int) -> None:
    """Run `network` once on zeros: it must map (2, 3, H, W) to logits (2, classes).

    Raises:
        ExportError: it raises, or returns something else.
    """
    with torch.inference_mode():
        answer = _run(f"the network, given (2, 3, {crop[0]}, {crop[1]}),", lambda: network(torch.zeros(2, 3, *crop)))
    if not isinstance(answer, Tensor):
        raise ExportError(f"expected the network to return logits (2, {classes}), found {_kind(answer)}")
    if answer.ndim == 2 and answer.shape[0] == 2 and answer.shape[1] != classes:
        raise ExportError(f"expected a head of {classes} classes (labels), found {answer.shape[1]}")
    if tuple(answer.shape) != (2, classes) or not answer.is_floating_point():
        raise ExportError(
            f"expected the network to return logits (2, {classes}), found {answer.dtype} {tuple(answer.shape)}"
        )


def _function(target: str) -> Callable[..., object]:
    module_name, _, name = target.partition(":")
    if not module_name or not name or module_name.startswith("."):
        raise ExportError(f"--arch {target}: expected package.module:function")
    found = _run(
        f"--arch {target}: importing {module_name} from the installed ones and {Path.cwd()}",
        lambda: import_module(module_name),
    )
    for part in name.split("."):
        if not hasattr(found, part):
            like = difflib.get_close_matches(part, dir(found), n=3)
            advice = f"; like it are {', '.join(like)}" if like else ""
            raise ExportError(f"--arch {target}: expected {name} in {module_name}, found none{advice}")
        found = getattr(found, part)
    if not callable(found):
        raise ExportError(f"--arch {target}: expected a function that returns a network, found {_kind(found)}")
    return found


def _run(what: str, call: Callable[[], object]) -> object:
    """Run the user's code; any exception becomes a one-line error."""
    try:
        return call()
    except (Exception, SystemExit) as error:
        reason = next(iter(str(error).splitlines()), "")
        raise ExportError(f"{what} raised {type(error).__name__}{f': {reason}' if reason else ''}") from error


def _kind(value: object) -> str:
    kind = type(value).__name__
    return f"{'an' if kind[0] in 'aeiouAEIOU' else 'a'} {kind}"
