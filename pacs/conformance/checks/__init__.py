"""Checks of any Query/Retrieve server as a black box (`pacs conformance run`); they share no code with the server."""
