"""What the archive does, independent of DIMSE and HTTP: store, query, retrieve, commit, maintain. No SQL, no paths."""
