"""The file store: objects written as streams, committed, read in ranges and deleted, by key."""
