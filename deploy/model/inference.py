"""The model behind the endpoint: what SageMaker's scikit-learn container calls.

Request and answer are JSON Lines: a line `{"features": [text]}` for each review, a line
`{"predicted_label": n}` with n in 1..5 for each of them, in the same order.

The container ships this file alone, so it imports nothing of the project.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import joblib

CONTENT_TYPE = "application/jsonlines"
MODEL_FILE = "model.joblib"

# The container says application/json for a client that takes anything.
_ACCEPTED = frozenset({CONTENT_TYPE, "application/json", "*/*", ""})


class RequestError(ValueError):
    """The request is at fault, not the model.

    Attributes
    ----------
    status
        The HTTP status that says so.
    """

    status = 400


class UnsupportedContentTypeError(RequestError):
    """The body is of a type that the model does not read."""

    status = 415


class NotAcceptableError(RequestError):
    """The client wants an answer of a type that the model does not write."""

    status = 406


def model_fn(model_dir: str) -> Any:
    """Load the model.

    Parameters
    ----------
    model_dir
        A directory that holds `model.joblib`, a pickle: load only what you trained.

    Returns
    -------
    sklearn.pipeline.Pipeline
        Texts in, ratings out.
    """
    return joblib.load(os.path.join(model_dir, MODEL_FILE))


def input_fn(body: str | bytes | bytearray, content_type: str) -> list[str]:
    r"""Read the texts of a request.

    Parameters
    ----------
    body
        JSON Lines in UTF-8. The last line may end with a newline or not; other empty lines are
        malformed, or answers could not be matched with lines. No bytes: no texts.
    content_type
        `application/jsonlines`; parameters after a semicolon are ignored.

    Returns
    -------
    list of str
        One text a line.

    Raises
    ------
    UnsupportedContentTypeError
        For any other content type.
    RequestError
        At the first malformed line; the message names it, counted from 1.

    Examples
    --------
    >>> input_fn(b'{"features": ["good"]}\n{"features": ["bad"]}\n', "application/jsonlines")
    ['good', 'bad']
    """
    if _media_type(content_type) != CONTENT_TYPE:
        raise UnsupportedContentTypeError(
            f"content type {content_type!r} is not supported, use {CONTENT_TYPE}"
        )
    # Not splitlines: a text may hold other line separators, such as U+2028, unescaped.
    lines = _decoded(body).split("\n")
    if not lines[-1]:
        lines.pop()
    return [_text(line, number) for number, line in enumerate(lines, start=1)]


def predict_fn(features: Sequence[str], model: Any) -> list[int]:
    """Predict the rating of each text, all in one call of the model.

    Parameters
    ----------
    features
        Texts, length n; n may be 0.
    model
        What `model_fn` returned.

    Returns
    -------
    list of int
        Ratings in 1..5, length n, in the same order.
    """
    if not features:
        return []  # scikit-learn refuses an empty batch
    return [int(label) for label in model.predict(features)]


def output_fn(prediction: Sequence[int], accept: str) -> tuple[str, str]:
    r"""Write the answer.

    Parameters
    ----------
    prediction
        Ratings in 1..5.
    accept
        The type that the client wants: `application/jsonlines`, or anything.

    Returns
    -------
    tuple of str
        The body, a line for each rating, and its content type.

    Raises
    ------
    NotAcceptableError
        The client wants something else.

    Examples
    --------
    >>> output_fn([5, 1], "application/jsonlines")
    ('{"predicted_label": 5}\n{"predicted_label": 1}\n', 'application/jsonlines')
    """
    if _media_type(accept) not in _ACCEPTED:
        raise NotAcceptableError(f"cannot answer in {accept!r}, only in {CONTENT_TYPE}")
    body = "".join(json.dumps({"predicted_label": label}) + "\n" for label in prediction)
    return body, CONTENT_TYPE


def _media_type(header: str) -> str:
    return header.partition(";")[0].strip().lower()


def _decoded(body: str | bytes | bytearray) -> str:
    if isinstance(body, str):
        return body
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        number = body.count(b"\n", 0, error.start) + 1
        raise RequestError(f"line {number} is not UTF-8") from error


def _text(line: str, number: int) -> str:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"line {number} is not JSON") from error
    features = record.get("features") if isinstance(record, dict) else None
    if isinstance(features, list) and len(features) == 1 and isinstance(features[0], str):
        return features[0]
    raise RequestError(f'line {number} is not {{"features": [text]}}')
