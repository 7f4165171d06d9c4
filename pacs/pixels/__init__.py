"""Pixel data: decode, encode and convert it between transfer syntaxes (PS3.5 section 8 and Annex A)."""
