"""Helpers without DICOM, used by more than one folder."""
