"""DIMSE messages (PS3.7): command sets, fragments and status codes."""

from pacs._moved import moved_attributes

__getattr__ = moved_attributes("pacs.dimse.messages", "pacs.dimse.messages.message")
