"""Float64 reference of the representations of layers: ΔW is formed, entry by entry if need be.

One layer of one adapter at a time: `up` (outputs, rank), `down` (rank, inputs), a scale s.
"""

import numpy as np
import xxhash

EPS = 1e-8
FLOAT32_MAX = float(np.finfo(np.float32).max)


def update(up, down, scale=1.0):
    """ΔW = s·B·A."""
    return float(scale) * (np.asarray(up, np.float64) @ np.asarray(down, np.float64))


def spectrum(up, down, scale=1.0):
    """The 16 values of `update_spectrum`."""
    delta = update(up, down, scale)
    sigma = np.linalg.svd(delta, compute_uv=False)
    sigma[len(down) :] = 0  # rounding, which may be huge where the update is
    frobenius = np.sqrt(np.sum(delta**2))
    p = sigma / (sigma.sum() + EPS)
    return np.array(
        [
            *np.concatenate([sigma, np.zeros(10)])[:10],
            frobenius,
            sigma.sum(),
            frobenius**2 / (sigma[0] ** 2 + EPS),
            np.exp(-np.sum(p * np.log(p + EPS))),
            np.log(frobenius + EPS),
            delta.mean(),
        ]
    )


def canonical(up, down, scale=1.0):
    """√σᵢ·uᵢ, then √σᵢ·vᵢ, for i ≤ the rank."""
    delta = update(up, down, scale)
    m, n, rank = *delta.shape, len(down)
    sides = np.zeros((rank, m)), np.zeros((rank, n))
    u, sigma, vt = np.linalg.svd(delta, full_matrices=False)
    for i in range(min(rank, len(sigma))):
        sign = np.sign(u[np.abs(u[:, i]).argmax(), i])
        sides[0][i] = sign * np.sqrt(sigma[i]) * u[:, i]
        sides[1][i] = sign * np.sqrt(sigma[i]) * vt[i]
    return np.concatenate([side.ravel() for side in sides])


def channel_norms(up, down, scale=1.0):
    """Norms of rows and columns."""
    delta = update(up, down, scale)
    return np.concatenate([np.sqrt((delta**2).sum(axis)) for axis in (1, 0)])


def hashed(layer, side, size, channels):
    """Place and sign of every channel."""
    hashes = [
        xxhash.xxh3_64(f"{layer}|{side}|{size}|{i}".encode()).intdigest() for i in range(channels)
    ]
    places = np.array([(h >> 1) % size for h in hashes])
    return places, np.array([-1.0 if h & 1 else 1.0 for h in hashes])


def sketch(up, down, scale=1.0, *, layer, size):
    """Every entry of ΔW, with the product of two signs, at the sum of two places modulo D."""
    delta = update(up, down, scale)
    rows, row_signs = hashed(layer, "sketch_output", size, delta.shape[0])
    columns, column_signs = hashed(layer, "sketch_input", size, delta.shape[1])
    values = np.zeros(size)
    places = (rows[:, None] + columns[None, :]) % size
    np.add.at(values, places, delta * row_signs[:, None] * column_signs[None, :])
    return values
