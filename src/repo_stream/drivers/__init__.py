"""Drivers: they get the blocks of a repo, walk it, and return its records."""
