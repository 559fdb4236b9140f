"""Classifiers: each in a file of its own."""
