"""Descriptions of adapters, datasets and their layers."""
