"""`python -m tests.pixels matrix`: convert pixels between all transfer syntaxes, and print the results."""

import argparse
import sys
from pathlib import Path

from tests.pixels import matrix


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.pixels", description=__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("matrix", help="what is converted into what, and how exactly")
    command.add_argument("--output", type=Path, help="page to write the matrix into, instead of printing it")
    options = parser.parse_args()
    if options.output:
        matrix.write(options.output)
    else:
        print("\n".join(matrix.tables()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
