"""One series as an image: which series matches, the order of its instances, and whether they form a volume."""
