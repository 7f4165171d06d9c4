"""One series as an image: selection of the series, order of its slices, and geometry checks."""
