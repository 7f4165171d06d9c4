"""The storage SCP of the client: receives what a C-MOVE or C-GET sends, and writes it to a folder."""
