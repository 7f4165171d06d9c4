"""Helpers that know nothing of DICOM and are used by more than one folder."""
