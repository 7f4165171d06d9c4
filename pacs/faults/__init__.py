"""Misbehaving on purpose: what a test has a server do wrong, put between its socket, its policy and its handlers."""
