"""Correlation matrices: stressed, repaired to the nearest one that can be, and taken apart for drawing."""

import numpy as np

from stresslev.config.generator import CorrelationSpec


def nearest_correlation(matrix: np.ndarray, *, tolerance: float = 1e-12, most: int = 1000) -> np.ndarray:
    """The correlation matrix nearest to a symmetric one in the Frobenius norm (Higham 2002, algorithm 3.3: alternating projections, with Dykstra's
    correction, on positive semidefinite matrices and on those of unit diagonal).

    Args: `matrix` (G, G); one that is a correlation matrix already is returned as it is.
    """
    if np.linalg.eigvalsh(matrix)[0] >= -1e-12 and np.allclose(np.diag(matrix), 1, rtol=0, atol=1e-12):
        return matrix.copy()
    y, correction = matrix.copy(), np.zeros_like(matrix)
    for _ in range(most):
        r = y - correction
        values, vectors = np.linalg.eigh(r)
        x = (vectors * np.maximum(values, 0)) @ vectors.T
        correction = x - r
        before, y = y, x.copy()
        np.fill_diagonal(y, 1.0)
        if np.linalg.norm(y - before) <= tolerance * np.linalg.norm(y):
            break
    # what is left below zero is the tolerance: once more onto the cone, and back to a unit diagonal by scaling
    values, vectors = np.linalg.eigh(y)
    x = (vectors * np.maximum(values, 0)) @ vectors.T
    scale = 1 / np.sqrt(np.diag(x))
    x = x * scale[:, None] * scale
    np.fill_diagonal(x, 1.0)
    return (x + x.T) / 2


def asked(spec: CorrelationSpec, assets: tuple[str, ...]) -> np.ndarray:
    """(G, G) as the file asks for it, stress included; it need not be a correlation matrix."""
    matrix = np.full((len(assets), len(assets)), spec.common) if spec.matrix is None else np.array(spec.matrix, float)
    matrix = matrix + spec.stress * (spec.stress_to - matrix)
    for first, others in spec.pairs.items():
        for second, value in others.items():
            i, j = assets.index(first), assets.index(second)
            matrix[i, j] = matrix[j, i] = value
    np.fill_diagonal(matrix, 1.0)
    return matrix


def root(matrix: np.ndarray) -> np.ndarray:
    """(G, G) symmetric root, of singular matrices too: independent normals times its transpose have this correlation."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
