"""Logistic regression that knows the ratings' order and learns from coarse ratings too.

The model is a multinomial logistic regression whose weights, as a function of the rating, are
smooth: for each feature they are a sum of the orthogonal polynomials over 1 to 5 stars, a straight
line foremost (alone it would be the adjacent-categories model, Agresti, Analysis of Ordinal
Categorical Data, ch. 4), the higher degrees held back more. A rating known only as "one or two
stars" counts with the sum of their probabilities (interval censoring). What comes out is an
ordinary `LogisticRegression`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression

RATINGS = np.arange(1, 6)

# Hardly any penalty: the shares of the ratings are not to be drawn towards equal ones.
_INTERCEPT_PENALTY = 1e-2


@dataclass(frozen=True, slots=True)
class Censored:
    """Ratings known to lie within bounds, length n.

    Attributes
    ----------
    lowest, highest
        Ratings in 1..5, both included; the same where the rating is known.
    source
        Index from 0 of where the row comes from: each source has its own shares of the ratings.
        The fitted model has those of source 0.
    """

    lowest: NDArray[np.int64]
    highest: NDArray[np.int64]
    source: NDArray[np.int64]


def fit_ordinal(
    features: Any,
    ratings: Censored,
    *,
    penalty: float,
    degree_scales: tuple[float, ...],
    max_iterations: int = 100,
) -> LogisticRegression:
    """Fit the model by L-BFGS, from zero: the same input gives the same model.

    Parameters
    ----------
    features
        Sparse matrix (n, d), rows of length about 1.
    ratings
        Length n.
    penalty
        Of the squared weights, as `1 / C` of `LogisticRegression`; above 0.
    degree_scales
        Scale of the weights of degree 1, 2, ... (at most 4) of the rating: a smaller one holds
        that degree back more.
    max_iterations
        The fit stops there, converged or not; with so small data it is close long before.

    Returns
    -------
    LogisticRegression
        Fitted, with the classes 1 to 5.
    """
    width = features.shape[1]
    basis = _polynomials()[: len(degree_scales)] * np.array(degree_scales)[:, None]
    degrees = len(basis)
    impossible = (ratings.lowest[:, None] > RATINGS) | (ratings.highest[:, None] < RATINGS)
    barred = np.where(impossible, -np.inf, 0.0)
    of_source = np.eye(ratings.source.max(initial=0) + 1)[ratings.source]
    transposed = features.T.tocsr()

    def unpacked(flat: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        split = width * degrees
        return flat[:split].reshape(width, degrees), flat[split:].reshape(-1, len(RATINGS))

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weights, intercepts = unpacked(flat)
        scores = (features @ weights) @ basis + of_source @ intercepts
        total = logsumexp(scores, axis=1, keepdims=True)
        within = logsumexp(scores + barred, axis=1, keepdims=True)
        error = np.exp(scores - total) - np.exp(scores + barred - within)
        gradient = (
            transposed @ (error @ basis.T) + penalty * weights,
            of_source.T @ error + _INTERCEPT_PENALTY * intercepts,
        )
        value = (
            (total - within).sum()
            + penalty / 2 * (weights**2).sum()
            + _INTERCEPT_PENALTY / 2 * (intercepts**2).sum()
        )
        return float(value), np.concatenate([part.ravel() for part in gradient])

    start = np.zeros(width * degrees + of_source.shape[1] * len(RATINGS))
    options = {"maxiter": max_iterations}
    fitted = minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
    weights, intercepts = unpacked(fitted.x)
    model = LogisticRegression()
    model.classes_ = RATINGS.copy()
    model.coef_ = np.ascontiguousarray((weights @ basis).T)
    model.intercept_ = intercepts[0].copy()
    model.n_features_in_ = width
    model.n_iter_ = np.array([fitted.nit], dtype=np.int32)
    return model


def _polynomials() -> NDArray[np.float64]:
    """Return the orthonormal polynomials of degree 1 to 4 over the ratings, (4, 5)."""
    powers = np.vander(RATINGS - RATINGS.mean(), increasing=True)
    orthonormal, _ = np.linalg.qr(powers)
    rising: NDArray[np.float64] = orthonormal[:, 1:].T * np.sign(orthonormal[-1, 1:])[:, None]
    return rising
