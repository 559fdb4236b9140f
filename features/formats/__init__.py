"""Formats of adapter files: what the files of one ecosystem look like, in one place."""
