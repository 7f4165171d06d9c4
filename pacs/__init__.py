"""A DICOM Query/Retrieve server: C-STORE, C-FIND, C-MOVE, C-GET and C-CANCEL over an SQL index and a file store."""

__version__ = "0.1.0"
