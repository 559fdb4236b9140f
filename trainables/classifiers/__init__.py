"""Classifiers: each declared in a module of its own, found by name."""
