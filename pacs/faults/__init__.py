"""Fault injection for tests: a server with faults between its socket, its acceptor policy and its handlers."""
