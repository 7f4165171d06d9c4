"""Associations: how one is established, what arrives on it, and how a running operation is cancelled."""

from pacs._moved import moved_attributes

__getattr__ = moved_attributes("pacs.dimse.association", "pacs.dimse.association.association")
