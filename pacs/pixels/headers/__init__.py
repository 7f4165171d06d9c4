"""The headers of compressed frames, one module for each family of codestreams."""
