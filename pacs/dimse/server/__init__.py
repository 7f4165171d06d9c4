"""The server side of associations: listening, accepting, limits. It knows no service of the archive."""
