"""`python -m tests.hostile fuzz`: send mutated input to the daemon and to other servers, and print the results."""

import argparse
import sys
import warnings

from tests.hostile import fuzz


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    commands = parser.add_subparsers(required=True)
    fuzzing = commands.add_parser("fuzz", help="send mutated PDUs, command sets, Identifiers and data sets")
    fuzzing.add_argument("--seconds", type=float, default=60, help="duration for each server")
    fuzzing.add_argument("--seed", default="1", help="seed of the inputs; the same seed makes the same inputs")
    fuzzing.add_argument(
        "--peer", action="append", choices=[each for each in fuzz.TARGETS if each != "pacs"], default=[]
    )
    fuzzing.add_argument("--folder", help="folder for the data of the servers, on a real disk")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # pydicom warns about the invalid values
    return fuzz.main(options.seconds, options.seed, ["pacs", *options.peer], options.folder)


if __name__ == "__main__":
    sys.exit(main())
