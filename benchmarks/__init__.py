"""Benchmarks of this archive and other servers, under the same loads on the same machine.

`python -m benchmarks` starts every system as a process of its own on loopback, measures them in turn, and prints
medians, spreads and ratios. `docs/benchmarks.md` says what each row means. Nothing here is imported by `pacs`.
"""
