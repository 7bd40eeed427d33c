"""Measurements of the project against what others do with the same files."""
