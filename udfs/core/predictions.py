"""What becomes of the rows of a batch that is scored."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import overload


class ScoreReason(StrEnum):
    """Why a review has no prediction: the `reason` of its dead letter.

    But for `ENDPOINT_UNAVAILABLE`: then no review is to blame, and the job must fail.
    """

    MODEL_ERROR = "model_error"
    TIMEOUT = "timeout"
    BAD_ANSWER = "bad_answer"
    REQUEST_TOO_LARGE = "request_too_large"
    ENDPOINT_UNAVAILABLE = "endpoint_unavailable"


@dataclass(frozen=True, slots=True)
class Scored:
    """A prediction.

    `star_rating` is 1..5; `model_variant` is the variant that answered, and `requested_variant` the
    one that was asked for, None unless it differs; `inference_id` names the request and
    `inference_row` the row in it (from 0), as the endpoint's data capture has them.
    """

    star_rating: int
    model_variant: str
    requested_variant: str | None
    inference_id: str
    inference_row: int
    attempts: int


@dataclass(frozen=True, slots=True)
class Failed:
    """No prediction: why, in words, and after how many attempts that the row was part of."""

    reason: ScoreReason
    message: str
    attempts: int


class Predictions(Sequence[Scored | Failed]):
    """What became of the n rows of a batch, in order; kept by column, which is faster.

    Attributes
    ----------
    star_rating, model_variant, requested_variant, inference_id, inference_row
        As of `Scored`; length n, None where there is no prediction.
    attempts
        Length n.
    reason, message
        As of `Failed`; length n, None where there is a prediction.
    """

    def __init__(self, rows: int) -> None:
        self.star_rating: list[int | None] = [None] * rows
        self.model_variant: list[str | None] = [None] * rows
        self.requested_variant: list[str | None] = [None] * rows
        self.inference_id: list[str | None] = [None] * rows
        self.inference_row: list[int | None] = [None] * rows
        self.attempts: list[int] = [0] * rows
        self.reason: list[ScoreReason | None] = [None] * rows
        self.message: list[str | None] = [None] * rows

    def __len__(self) -> int:
        return len(self.attempts)

    @property
    def answered(self) -> int:
        """How many rows have a prediction."""
        return len(self) - self.star_rating.count(None)

    @overload
    def __getitem__(self, row: int) -> Scored | Failed: ...
    @overload
    def __getitem__(self, row: slice) -> list[Scored | Failed]: ...
    def __getitem__(self, row: int | slice) -> Scored | Failed | list[Scored | Failed]:
        if isinstance(row, slice):
            return [self[one] for one in range(*row.indices(len(self)))]
        reason, message = self.reason[row], self.message[row]
        if reason is not None and message is not None:
            return Failed(reason, message, self.attempts[row])
        rating, variant = self.star_rating[row], self.model_variant[row]
        inference_id, inference_row = self.inference_id[row], self.inference_row[row]
        if rating is None or variant is None or inference_id is None or inference_row is None:
            raise LookupError(f"row {row} is not through yet")
        return Scored(
            rating,
            variant,
            self.requested_variant[row],
            inference_id,
            inference_row,
            self.attempts[row],
        )

    def __setitem__(self, row: int, outcome: Scored | Failed) -> None:
        self.attempts[row] = outcome.attempts
        if isinstance(outcome, Failed):
            self.reason[row], self.message[row] = outcome.reason, outcome.message
        else:
            self.star_rating[row] = outcome.star_rating
            self.model_variant[row] = outcome.model_variant
            self.requested_variant[row] = outcome.requested_variant
            self.inference_id[row] = outcome.inference_id
            self.inference_row[row] = outcome.inference_row

    def put_request(
        self,
        rows: Sequence[int],
        ratings: list[int],
        variant: str,
        requested_variant: str | None,
        inference_id: str,
        attempts: int,
    ) -> None:
        """Note the answer to one request: `ratings` of the rows at the places `rows`."""
        count = len(ratings)
        requested = None if requested_variant == variant else requested_variant
        if isinstance(rows, range) and rows.step == 1:
            place = slice(rows.start, rows.stop)
            self.star_rating[place] = ratings
            self.model_variant[place] = [variant] * count
            self.requested_variant[place] = [requested] * count
            self.inference_id[place] = [inference_id] * count
            self.inference_row[place] = range(count)
            self.attempts[place] = [attempts] * count
        else:
            for inference_row, (row, rating) in enumerate(zip(rows, ratings, strict=True)):
                self[row] = Scored(
                    rating, variant, requested, inference_id, inference_row, attempts
                )
