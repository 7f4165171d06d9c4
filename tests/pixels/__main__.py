"""`python -m tests.pixels`: what is converted into what and how exactly, and how fast the codecs are."""

import argparse
import sys
from pathlib import Path

from tests.pixels import matrix, speed


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.pixels", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("matrix", help="what is converted into what, and how exactly")
    command.add_argument("--output", type=Path, help="page to write the matrix into, instead of printing it")
    command = commands.add_parser("speed", help="frames of one core and second, ours and those of pydicom's plugins")
    command.add_argument("--seconds", type=float, default=0.4, help="CPU time of each measurement")
    options = parser.parse_args()
    if options.command == "speed":
        print("\n".join(speed.tables(options.seconds)))
    elif options.output:
        matrix.write(options.output)
    else:
        print("\n".join(matrix.tables()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
