"""Jumps of the wall clock while the real daemon runs."""
