"""CAR files: sections in, blocks out."""
