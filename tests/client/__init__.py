"""Tests of the client with this archive, with other PACS, and with misbehaving peers."""
