"""The client against the archive itself, against other PACS, and against peers that behave badly."""
