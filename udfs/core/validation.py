"""Pydantic's validation errors as sentences."""

from pydantic import ValidationError


def problems_of(error: ValidationError) -> list[str]:
    """Return a line for each problem: the field, if it is one of a field, and the problem.

    >>> from pydantic import BaseModel
    >>> class Faults(BaseModel, extra="forbid"):
    ...     labels: list[int]
    >>> try:
    ...     Faults.model_validate({"labels": ["one"], "latency": 1})
    ... except ValidationError as error:
    ...     for problem in problems_of(error):
    ...         print(problem)
    labels.0: Input should be a valid integer, unable to parse string as an integer
    latency: Extra inputs are not permitted
    """
    return [
        ": ".join(filter(None, [".".join(map(str, problem["loc"])), problem["msg"]]))
        for problem in error.errors(include_input=False, include_url=False)
    ]
