"""The DIMSE server: listening, accepting associations, limits. It knows no service of the archive."""

from pacs._moved import moved_attributes

__getattr__ = moved_attributes("pacs.dimse.server", "pacs.dimse.server.server")
