"""Kinds of failed requests to an endpoint: what each is about, and what follows from it."""

from enum import StrEnum

from udfs.core.predictions import ScoreReason


class FailureKind(StrEnum):
    """What a failed request is about.

    | kind | about | asked again | lowers the concurrency limit | suspects rows |
    |---|---|---|---|---|
    | `ROWS` | the rows: the model rejects them | in parts, single rows once more | no | at once |
    | `MODEL` | the rows or the model: an error of its own code, a malformed answer | yes | yes | when it repeats |
    | `LOAD` | load: time-out, throttling, load shedding, a container that crashed | yes | yes | alone, at concurrency 1; a time-out cuts a request up that later ones have overtaken |
    | `SERVICE` | the service or the connection | yes | no | never |
    | `VARIANT` | the variant that the request names does not exist | without that name | no | never |
    | `CALL` | the call: no such endpoint, access denied | no | no | never |

    Which error is of which kind is the table of `udfs.core.endpoint`.
    """  # noqa: E501  # a table

    ROWS = "rows"
    MODEL = "model"
    LOAD = "load"
    SERVICE = "service"
    VARIANT = "variant"
    CALL = "call"


class EndpointError(Exception):
    """A request that failed.

    Parameters
    ----------
    message
        What happened, with the service's own code.
    kind
        What it is about.
    reason
        The reason code of a row that is found to be the cause; None where no row can be, as with
        throttling by the service.
    variant
        The production variant that failed, None where the service does not name it.
    """

    def __init__(
        self,
        message: str,
        kind: FailureKind,
        *,
        reason: ScoreReason | None = None,
        variant: str | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.reason = reason
        self.variant = variant


class EndpointUnavailableError(Exception):
    """The endpoint gives no answer in time, or can give none: read the rows again later."""
