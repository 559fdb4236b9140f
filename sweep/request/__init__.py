"""Requests: experiment, run options, YAML files, and the grid of trials they stand for."""
