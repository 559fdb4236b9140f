"""Adapter files of every common format, read into the factors of layers."""
