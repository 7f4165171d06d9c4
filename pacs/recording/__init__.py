"""Records associations between two AEs, de-identified, to a readable file, and replays them.

`relay` forwards connections, `sniffer` decodes them, `pseudonyms` de-identifies them, `file_format` reads and writes
the file, and `replay` answers as the recorded acceptor did.
"""
