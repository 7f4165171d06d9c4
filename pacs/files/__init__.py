"""The file store: bytes streamed in, committed, read out in ranges and deleted, by key."""
