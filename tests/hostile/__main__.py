"""`python -m tests.hostile fuzz` sends mutated input to the daemon and to other servers, and prints the results.

`python -m tests.hostile frames` converts damaged frames in decoder processes, and prints the results.
"""

import argparse
import sys
import warnings

from tests.hostile import frames, fuzz


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
    fuzzing.set_defaults(run=_fuzz)
    damaging = commands.add_parser("frames", help="convert damaged frames in every transfer syntax")
    damaging.add_argument("--each", type=int, default=10_000, help="number of frames in each transfer syntax")
    damaging.add_argument("--seed", default="frames", help="seed of the changes")
    damaging.add_argument("--syntax", action="append", choices=frames.SOURCES, default=[], help="only these")
    damaging.set_defaults(run=lambda options: frames.main(options.each, options.seed, options.syntax))
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # pydicom warns about the invalid values
    return options.run(options)


def _fuzz(options: argparse.Namespace) -> int:
    return fuzz.main(options.seconds, options.seed, ["pacs", *options.peer], options.folder)


if __name__ == "__main__":
    sys.exit(main())
