"""Datasets made here: sanity and synthetic sets, adapters of a small diffusion model."""
