"""The DICOM conformance statement of this server (PS3.2)."""
