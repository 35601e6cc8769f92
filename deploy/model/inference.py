"""The model behind the endpoint: what SageMaker's scikit-learn container calls.

- `application/jsonlines`: a line `{"features": [text]}` a review, answered by a line
  `{"predicted_label": n}`.
- `text/csv` (RFC 4180, no header): a text a row, answered by a line `n`.
- `application/json`: `{"instances": [[text], ...]}`, answered by
  `{"predictions": [{"predicted_label": n}, ...]}`.

Answers come in the order of the reviews; n is in 1..5. The environment variable `PREDICTION` says
which rating of the model's distribution n is: `mode` (the default: most often right), `median`
(nearest on average), or `probabilities`: the mode, and beside it in both JSON forms
`"probabilities"`, those of 1 to 5 stars.

The container ships this file alone, so it imports nothing of the project.
"""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, cast

import joblib
import numpy as np
from numpy.typing import NDArray

CONTENT_TYPE = "application/jsonlines"
CSV_TYPE = "text/csv"
JSON_TYPE = "application/json"
MODEL_FILE = "model.joblib"

PREDICTION_VARIABLE = "PREDICTION"
PREDICTIONS = ("mode", "median", "probabilities")

_RATINGS = np.arange(1, 6)
_PROBABILITY_DIGITS = 6
# Half the probability, less what adding five floats may lose: a tie goes to the lower rating.
_HALF = 0.5 - 1e-9


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

    Raises
    ------
    ValueError
        `PREDICTION` is none of `PREDICTIONS`, or the model has ratings other than 1 to 5, or no
        probabilities where they are needed.
    """
    prediction = _prediction()
    model = joblib.load(os.path.join(model_dir, MODEL_FILE))
    if strange := sorted(set(getattr(model, "classes_", _RATINGS)).difference(_RATINGS)):
        raise ValueError(f"the model in {model_dir} has ratings other than 1 to 5: {strange}")
    if prediction != "mode" and not hasattr(model, "predict_proba"):
        raise ValueError(
            f"{PREDICTION_VARIABLE} is {prediction!r}, but the model in {model_dir} has no"
            " predict_proba: only mode is possible"
        )
    return model


def input_fn(body: str | bytes | bytearray, content_type: str) -> list[str]:
    r"""Read the texts of a request.

    Parameters
    ----------
    body
        UTF-8, one text a review; no bytes: no texts. JSON Lines and CSV may end with a newline or
        not; other empty lines are malformed (in CSV an empty text is `""`), or answers could not be
        matched with lines. In JSON an instance may also be `{"features": [text]}`.
    content_type
        `application/jsonlines`, `text/csv` or `application/json`; parameters after a semicolon
        are ignored.

    Returns
    -------
    list of str
        One text a review.

    Raises
    ------
    UnsupportedContentTypeError
        For any other content type.
    RequestError
        At the first malformed line, row or instance; the message names it, counted from 1.

    Examples
    --------
    >>> input_fn(b'{"features": ["good"]}\n{"features": ["bad"]}\n', "application/jsonlines")
    ['good', 'bad']
    >>> input_fn(b'"good, as a ""gift"" goes"\r\nbad\r\n', "text/csv")
    ['good, as a "gift" goes', 'bad']
    >>> input_fn(b'{"instances": [["good"], ["bad"]]}', "application/json")
    ['good', 'bad']
    """
    read = _READERS.get(_media_type(content_type))
    if read is None:
        raise UnsupportedContentTypeError(
            f"content type {content_type!r} is not supported, use {', '.join(_READERS)}"
        )
    text = _decoded(body)
    return read(text) if text else []


def predict_fn(features: Sequence[str], model: Any) -> list[int] | NDArray[np.float64]:
    """Predict the rating of each text, all in one call of the model.

    Parameters
    ----------
    features
        Texts, length n; n may be 0.
    model
        What `model_fn` returned.

    Returns
    -------
    list of int or array
        As `PREDICTION` says: ratings in 1..5, length n, in the same order; or for `probabilities`
        an array (n, 5), each row those of 1 to 5 stars, together 1.
    """
    prediction = _prediction()
    if prediction == "mode":
        # scikit-learn refuses an empty batch.
        return np.asarray(model.predict(features)).tolist() if features else []
    probabilities = rating_probabilities(model, features)
    return probabilities if prediction == "probabilities" else medians(probabilities).tolist()


def output_fn(prediction: Sequence[int] | NDArray[np.float64], accept: str) -> tuple[str, str]:
    r"""Write the answer.

    Parameters
    ----------
    prediction
        What `predict_fn` returned.
    accept
        The type that the client wants: `application/jsonlines`, `text/csv` or `application/json`;
        JSON Lines for anything. The container says application/json for a client that says
        nothing; its variable `SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT` changes that.

    Returns
    -------
    tuple of str
        The body and its content type. CSV has the ratings alone, also where probabilities are
        asked for.

    Raises
    ------
    NotAcceptableError
        The client wants something else.

    Examples
    --------
    >>> output_fn([5, 1], "application/jsonlines")
    ('{"predicted_label": 5}\n{"predicted_label": 1}\n', 'application/jsonlines')
    >>> output_fn([5, 1], "text/csv")
    ('5\n1\n', 'text/csv')
    >>> output_fn([5, 1], "application/json")
    ('{"predictions": [{"predicted_label": 5}, {"predicted_label": 1}]}', 'application/json')
    """
    wanted = _media_type(accept)
    if wanted in ("*/*", ""):
        wanted = CONTENT_TYPE
    if wanted not in _READERS:
        raise NotAcceptableError(f"cannot answer in {accept!r}, only in {', '.join(_READERS)}")
    if isinstance(prediction, np.ndarray):
        labels: Sequence[int] = modes(prediction).tolist()
        rows = np.round(prediction, _PROBABILITY_DIGITS).tolist()
        objects = [
            f'{{"predicted_label": {label}, "probabilities": {row}}}'
            for label, row in zip(labels, rows, strict=True)
        ]
    else:
        labels = prediction
        objects = [f'{{"predicted_label": {label}}}' for label in labels]
    if wanted == CSV_TYPE:
        body = "".join(f"{label}\n" for label in labels)
    elif wanted == JSON_TYPE:
        body = f'{{"predictions": [{", ".join(objects)}]}}'
    else:
        body = "".join(f"{line}\n" for line in objects)
    return body, wanted


def rating_probabilities(model: Any, texts: Sequence[str]) -> NDArray[np.float64]:
    """Return the probabilities of 1 to 5 stars for each text.

    Parameters
    ----------
    model
        A classifier of texts; its classes are ratings in 1..5, not necessarily all.
    texts
        Length n; n may be 0.

    Returns
    -------
    array
        (n, 5); 0 for a rating that is none of the model's classes.
    """
    probabilities = np.zeros((len(texts), len(_RATINGS)))
    if len(texts):
        probabilities[:, np.asarray(model.classes_) - 1] = model.predict_proba(texts)
    return probabilities


def modes(probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the likeliest rating of each row, the lower one of two as likely.

    >>> modes(np.array([[0.3, 0.2, 0.1, 0.0, 0.4]])).tolist()
    [5]
    """
    labels: NDArray[np.int64] = _RATINGS[probabilities.argmax(axis=1)]
    return labels


def medians(probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the lowest rating of each row that half of the probability does not exceed.

    >>> medians(np.array([[0.3, 0.2, 0.1, 0.0, 0.4], [0.1, 0.1, 0.2, 0.3, 0.3]])).tolist()
    [2, 4]
    """
    half_reached = np.cumsum(probabilities, axis=1) >= _HALF
    labels: NDArray[np.int64] = _RATINGS[half_reached.argmax(axis=1)]
    return labels


def _prediction() -> str:
    prediction = os.environ.get(PREDICTION_VARIABLE, "") or PREDICTIONS[0]
    if prediction not in PREDICTIONS:
        raise ValueError(
            f"the environment variable {PREDICTION_VARIABLE} is {prediction!r},"
            f" it must be one of {', '.join(PREDICTIONS)}"
        )
    return prediction


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


def _of_json_lines(body: str) -> list[str]:
    # Not splitlines: a text may hold other line separators, such as U+2028, unescaped.
    lines = body.removesuffix("\n").split("\n")
    texts = _of_flat_lines(body.removesuffix("\n"), len(lines))
    return texts or [_text(line, number) for number, line in enumerate(lines, start=1)]


def _of_flat_lines(body: str, lines: int) -> list[str] | None:
    """Read all lines in one go, twice as fast, where each can only be one flat object.

    Each begins and ends with a brace, and there are no others: what was to join or split lines
    would leave fewer objects than lines. None where it is not so simple, or anything is wrong.
    """
    joined = body.count("}\n{") + 1
    if (body[:1], body[-1:], joined) != ("{", "}", lines) or body.count("{") != lines:
        return None
    try:
        records = json.loads(f"[{body.replace(chr(10), ',')}]")
        texts = [_only_text(record["features"]) for record in records]
    except (ValueError, RecursionError, KeyError, TypeError):
        return None
    return cast(list[str], texts) if len(texts) == lines and None not in texts else None


def _text(line: str, number: int) -> str:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"line {number} is not JSON") from error
    text = _only_text(record.get("features")) if isinstance(record, dict) else None
    if text is None:
        raise RequestError(f'line {number} is not {{"features": [text]}}')
    return text


def _only_text(features: object) -> str | None:
    if isinstance(features, list) and len(features) == 1 and isinstance(features[0], str):
        return features[0]
    return None


def _of_csv(body: str) -> list[str]:
    # The module's bound of 128 KiB is less than a review may have; the request's holds anyway.
    csv.field_size_limit(sys.maxsize)
    texts: list[str] = []
    try:
        for row in csv.reader(io.StringIO(body, newline=""), strict=True):
            if len(row) != 1:
                raise RequestError(f"row {len(texts) + 1} has {len(row)} columns, not one text")
            texts.append(row[0])
    except csv.Error as error:
        raise RequestError(f"row {len(texts) + 1} is not CSV: {error}") from error
    return texts


def _of_json(body: str) -> list[str]:
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError("the body is not JSON") from error
    instances = request.get("instances") if isinstance(request, dict) else None
    if not isinstance(instances, list):
        raise RequestError('the body is not {"instances": [[text], ...]}')
    texts = []
    for number, instance in enumerate(instances, start=1):
        text = _only_text(instance.get("features") if isinstance(instance, dict) else instance)
        if text is None:
            raise RequestError(f'instance {number} is neither [text] nor {{"features": [text]}}')
        texts.append(text)
    return texts


_READERS: dict[str, Callable[[str], list[str]]] = {
    CONTENT_TYPE: _of_json_lines,
    CSV_TYPE: _of_csv,
    JSON_TYPE: _of_json,
}
