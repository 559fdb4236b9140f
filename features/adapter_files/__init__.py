"""Adapters as people have them: files of every common format, read into layers."""
