"""What hostile peers do to the running daemon."""
