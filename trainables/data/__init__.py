"""Splits, transforms and names of columns: what a classifier is trained on."""
