"""This process and its machine: signals, supervision, cores and memory."""
