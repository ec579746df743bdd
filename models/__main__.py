"""python -m models [PATTERN]: list the networks as a table. On the meta device, so nothing is computed."""

import argparse
import sys

import torch

from aaserve.models.flops import count_flops
from aaserve.models.registry import create_model, list_models

COLUMNS = "{:<24} {:>12} {:>14} {:>14} {:>10}"


def main() -> int:
    """Print the table; 1 if no name matches."""
    parser = argparse.ArgumentParser(
        prog="python -m models",
        description="List the networks: parameters, GFLOPs for one image (as the paper counts; two per multiply-add), "
        "input size in pixels.",
    )
    parser.add_argument("pattern", nargs="?", default="*", metavar="PATTERN", help="names to show (default: '*')")
    pattern = parser.parse_args().pattern
    names = list_models(pattern)
    if not names:
        print(f"no network matches {pattern!r}; python -m models lists all", file=sys.stderr)
        return 1
    print(COLUMNS.format("name", "parameters", "GFLOPs, paper", "GFLOPs, 2xMAC", "input"))
    for name in names:
        with torch.device("meta"):
            network = create_model(name)
        parameters = sum(parameter.numel() for parameter in network.parameters())
        flops = count_flops(network, network.image_size)
        size = "x".join(map(str, network.image_size))
        print(COLUMNS.format(name, f"{parameters:,}", f"{flops.paper / 1e9:.3f}", f"{flops.plain / 1e9:.3f}", size))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
