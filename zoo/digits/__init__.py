"""Adapters of a small diffusion model of digits, each trained on one class."""
