"""Batches of matrices and updates, and the kernels, sketches and decompositions behind them."""
