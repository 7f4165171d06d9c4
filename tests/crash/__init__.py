"""Crash tests: what an archive still has after a kill, a power cut, a full disk or the loss of its database.

`python -m tests.crash kills|cuts|faults` runs the long forms and prints their totals; the tests in this folder are
short forms. docs/reliability.md has the results.
"""
