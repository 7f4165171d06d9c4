"""Conformance to the DICOM standard: our own statement, and checks that can be run against any server."""
