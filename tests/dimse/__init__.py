"""Associations on the wire: a real server on port 0 against pynetdicom, DCMTK and PDUs written by hand."""
