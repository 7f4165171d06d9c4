"""Associations: establishment, messages, C-CANCEL, and requests of the SCP."""

from pacs._moved import moved_attributes

__getattr__ = moved_attributes("pacs.dimse.association", "pacs.dimse.association.association")
