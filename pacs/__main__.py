"""`python -m pacs` is the command `pacs`."""

from pacs.cli import main

main(prog_name="pacs")
