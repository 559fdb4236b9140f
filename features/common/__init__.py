"""Errors, atomic and signed files, locks, hardware and plug-ins, for every room."""
