"""The DICOM upper layer (PS3.8): the socket, TLS, PDUs and the state machine."""
