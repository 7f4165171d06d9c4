"""Pixel data: decode, encode and convert it between transfer syntaxes (PS3.5 section 8, Annex A), and render it."""
