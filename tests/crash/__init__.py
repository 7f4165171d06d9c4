"""What an archive still has after the worst moment: killed, without power, without room, without its database.

`python -m tests.crash kills|cuts|faults` runs the long forms and prints their totals; the tests in this folder are
short ones. docs/reliability.md says what came out of them.
"""
