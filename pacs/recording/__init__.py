"""Associations on tape: recorded between two AEs, de-identified, in a file people can read; and replayed from it.

`relay` stands between the two and listens, `pseudonyms` takes out who it is about, `script` is the file, `replay`
answers as the recorded acceptor did.
"""
