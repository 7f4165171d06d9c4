"""DICOM data: levels, attributes, values, Identifiers and headers as PS3.3 to PS3.6 define them. No I/O, no SQL."""
