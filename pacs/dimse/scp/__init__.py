"""The services of the archive as SCP: C-ECHO, C-STORE, C-FIND, C-MOVE, C-GET and storage commitment."""
