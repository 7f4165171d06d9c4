"""`python -m tests.hostile fuzz`: put mutated input to the running daemon, and to others, and print what came of it."""

import argparse
import sys
import warnings

from tests.hostile import fuzz


def main() -> int:
    """Parse the words of the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    commands = parser.add_subparsers(required=True)
    fuzzing = commands.add_parser("fuzz", help="mutated PDUs, command sets, identifiers and data sets")
    fuzzing.add_argument("--seconds", type=float, default=60, help="for each server")
    fuzzing.add_argument("--seed", default="1", help="the same inputs for the same seed")
    fuzzing.add_argument(
        "--peer", action="append", choices=[each for each in fuzz.TARGETS if each != "pacs"], default=[]
    )
    fuzzing.add_argument("--folder", help="where the servers keep their data, a real disk")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")  # pydicom warns of values that are meant to be bad
    return fuzz.main(asked.seconds, asked.seed, ["pacs", *asked.peer], asked.folder)


if __name__ == "__main__":
    sys.exit(main())
