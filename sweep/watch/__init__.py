"""Whoever watches a run: the terminal, status, Prometheus."""
