"""Views of a run from outside: terminal, status, Prometheus."""
