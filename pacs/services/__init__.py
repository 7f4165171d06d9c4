"""What the archive does, for any mouth: store, query, retrieve. No protocol, no SQL, no paths."""
