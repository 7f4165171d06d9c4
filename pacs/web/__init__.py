"""The web mouth: HTTP beside DIMSE. So far what those ask who run the archive: alive, ready, metrics."""
