"""CloudWatch metrics and SNS alerts in batches: packed, retried within bounds, a result per item.

No item raises and none is dropped: each ends published, or as `Unpublished` with the reason. Whose
failure it is decides what follows. The *content* of a call is searched by halves for the item to
blame; what *heals* (throttling, outage) is retried; what concerns *every call* (access denied, no
such topic) ends the batch at once. A batch never takes longer than `longest_s`.

Limits and errors follow the API references of PutMetricData (Amazon CloudWatch) and PublishBatch
(Amazon SNS).
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar
from urllib.parse import quote

from boto3.session import Session
from botocore import exceptions as boto
from botocore.config import Config

from udfs.core.throttling import is_throttling
from udfs.core.xml_text import xml_text

if TYPE_CHECKING:
    from mypy_boto3_cloudwatch import CloudWatchClient
    from mypy_boto3_cloudwatch.type_defs import MetricDatumTypeDef
    from mypy_boto3_sns import SNSClient

ALERT_SUBJECT = "New Reviews Anomaly Score Detected"
"""Subject of every alert. SNS takes less than 100 characters of ASCII without line breaks."""

CATEGORY_DIMENSION = "Product Category"
"""The dimension of every metric."""

_MAX_MESSAGE_CHARS = 1_000
_MAX_VALUE = 2.0**360
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_YEAR_10000_MS = 253_402_300_800_000
_SAFE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")

# Error codes, without the suffix "Exception" that they have in some of the protocols. All of them
# also come as a 400: only the code tells.
_UNAVAILABLE_CODES = frozenset(
    {
        "InternalError",
        "InternalFailure",
        "InternalService",
        "InternalServiceError",
        "RequestTimeout",
        "ServiceUnavailable",
        # Temporary credentials that were renewed too late; the next attempt has new ones.
        "ExpiredToken",
    }
)
_TOO_LARGE_CODES = frozenset({"BatchRequestTooLong", "RequestEntityTooLarge"})
_DENIED_CODES = frozenset(
    {
        "AccessDenied",
        "AuthorizationError",
        "IncompleteSignature",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSecurity",
        "InvalidSignature",
        "MissingAuthenticationToken",
        "NotAuthorized",
        "OptInRequired",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "UnrecognizedClient",
    }
)
_NOT_FOUND_CODES = frozenset({"NotFound", "ResourceNotFound"})

_CONTENT_ERRORS = (boto.ParamValidationError, UnicodeError)
_CREDENTIAL_ERRORS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.NoAuthTokenError,
    boto.ProfileNotFound,
)

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


class PublishReason(StrEnum):
    """Why something was not published: the `reason` of its dead letter.

    Attributes
    ----------
    THROTTLED
        The service asked to slow down, `max_attempts` times.
    UNAVAILABLE
        The service failed, could not be reached or did not answer, `max_attempts` times.
    OUT_OF_TIME
        The batch's time was up before it was this item's turn.
    REJECTED
        The service takes no such item: its value, its time or a character.
    TOO_LARGE
        The item alone exceeds what a call may hold.
    DENIED
        Credentials are missing, wrong or not allowed to publish.
    NOT_FOUND
        There is no such topic.
    """

    THROTTLED = "throttled"
    UNAVAILABLE = "unavailable"
    OUT_OF_TIME = "out_of_time"
    REJECTED = "rejected"
    TOO_LARGE = "too_large"
    DENIED = "denied"
    NOT_FOUND = "not_found"


_HEALS = frozenset({PublishReason.THROTTLED, PublishReason.UNAVAILABLE})
_IN_CONTENT = frozenset({PublishReason.REJECTED, PublishReason.TOO_LARGE})


@dataclass(frozen=True, slots=True)
class PublishingOptions:
    """How the services are asked.

    Attributes
    ----------
    region
        AWS region.
    endpoint_url
        Address of another server that speaks the API, None for AWS.
    attempt_timeout_s
        One attempt: half of it to connect, half to wait for the answer.
    max_attempts
        Failed calls that an item may be part of, where failures heal.
    backoff_base_s, backoff_cap_s
        Failure k is followed by a pause drawn evenly from 0 to min(cap, base * 2**k): "full
        jitter" of the AWS Architecture Blog, Exponential Backoff And Jitter.
    """

    region: str
    endpoint_url: str | None = None
    attempt_timeout_s: float = 5.0
    max_attempts: int = 5
    backoff_base_s: float = 0.1
    backoff_cap_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Unpublished:
    """An item that was not published: why, in words, and after how many calls it was part of.

    After a timeout it may have been published all the same.
    """

    reason: PublishReason
    message: str
    attempts: int


@dataclass(frozen=True, slots=True)
class MetricPoint:
    """One value of a metric.

    `category` becomes the dimension `Product Category`; `time_ms` counts from the epoch.
    `resolution_s` is 1 or 60: points of less than a minute's are kept for three hours as they are.
    """

    name: str
    category: str
    time_ms: int
    value: float
    resolution_s: int = 1


@dataclass(frozen=True, slots=True)
class Alert:
    """A message to the topic; `event_id` becomes a message attribute, the same in a repeat.

    Both are sent as `xml_text` returns them.
    """

    event_id: str
    message: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """What one call said of one item, or of all of them."""

    reason: PublishReason
    message: str


class Destination(Protocol[T_contra]):
    """A service that takes many items a call.

    Attributes
    ----------
    max_items, max_bytes
        The most that a call may hold.
    """

    max_items: int
    max_bytes: int

    def size(self, item: T_contra) -> int:
        """Return the bytes that an item takes at most in a call."""

    def problem(self, item: T_contra) -> str | None:
        """Say why an item can never be published, without asking; None where nothing is known."""

    def send(self, items: Sequence[T_contra]) -> Sequence[Refusal | None]:
        """Make one call, and return what became of each item (None: published).

        Raises
        ------
        botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError, UnicodeError
            The call as a whole failed, and published nothing.
        """


class CloudWatchMetrics:
    """`Destination` of metric points: PutMetricData, which takes all of a call or nothing.

    Published twice, a point counts twice in its second: the average stays, sum and count do not.

    Parameters
    ----------
    client
        boto3's; its own retries should be off.
    namespace
        Of all metrics.
    """

    max_items = 1_000
    max_bytes = 1_000_000

    def __init__(self, client: "CloudWatchClient", namespace: str) -> None:
        self._client = client
        self._namespace = namespace

    def size(self, item: MetricPoint) -> int:
        """Return what the point takes in the longest of the API's forms, the form-encoded one."""
        return 400 + 3 * (len(quote(item.name)) + len(dimension_value(item.category)))

    def problem(self, item: MetricPoint) -> str | None:
        """Sort out what would cost a search: values that are no numbers, times that are no dates.

        Whether a time is too old or too far ahead is left to CloudWatch and its clock.
        """
        # False for NaN too.
        if not abs(item.value) <= _MAX_VALUE:
            return f"{item.name} = {item.value} is not a number between -2^360 and 2^360"
        if not 0 <= item.time_ms < _YEAR_10000_MS:
            return f"{item.time_ms} ms since the epoch is not a time of the years 1970 to 9999"
        return None

    def send(self, items: Sequence[MetricPoint]) -> Sequence[Refusal | None]:
        """Put all points, or raise."""
        self._client.put_metric_data(
            Namespace=self._namespace, MetricData=[_datum(point) for point in items]
        )
        return [None] * len(items)


class SnsAlerts:
    """`Destination` of alerts: PublishBatch, which answers for each message.

    Parameters
    ----------
    client
        boto3's; its own retries should be off.
    topic_arn
        Of a standard topic.
    """

    max_items = 10
    max_bytes = 262_144

    def __init__(self, client: "SNSClient", topic_arn: str) -> None:
        self._client = client
        self._topic_arn = topic_arn

    def size(self, item: Alert) -> int:
        """Return the bytes of subject, message and attribute (name, type and value)."""
        texts = (ALERT_SUBJECT, item.message, "event_id", "String", item.event_id)
        return sum(len(xml_text(text).encode()) for text in texts)

    def problem(self, item: Alert) -> str | None:
        """Return None: SNS names the messages that it does not take."""
        return None

    def send(self, items: Sequence[Alert]) -> Sequence[Refusal | None]:
        """Publish the alerts, and look at each answer."""
        response = self._client.publish_batch(
            TopicArn=self._topic_arn,
            PublishBatchRequestEntries=[
                {
                    "Id": str(position),
                    "Subject": ALERT_SUBJECT,
                    "Message": xml_text(alert.message),
                    "MessageAttributes": {
                        "event_id": {"DataType": "String", "StringValue": xml_text(alert.event_id)}
                    },
                }
                for position, alert in enumerate(items)
            ],
        )
        published = {entry.get("Id") for entry in response.get("Successful", [])}
        refusals = {
            entry["Id"]: Refusal(
                _reason(entry["Code"], 400 if entry["SenderFault"] else 500),
                f"{entry['Code']}: {entry.get('Message', '')}"[:_MAX_MESSAGE_CHARS],
            )
            for entry in response.get("Failed", [])
        }
        # Of neither list: sent again, because a repeat does less harm than a loss.
        unknown = Refusal(PublishReason.UNAVAILABLE, "the answer does not mention the message")
        return [
            None if str(position) in published else refusals.get(str(position), unknown)
            for position in range(len(items))
        ]


class Publisher(Generic[T]):
    """Publishes batches of items to one destination.

    Parameters
    ----------
    destination
        Where to.
    options
        Bounds of time and retries.
    rng, sleep, monotonic
        Source of jitter, pause and clock (seconds); for tests.

    Notes
    -----
    The SDK's own retries are off. They repeat whole calls only, where SNS fails single messages;
    they know nothing of the time that is left to a batch, would be taken again for each half of a
    rejected call, and do not say how many attempts a lost connection had.
    """

    def __init__(
        self,
        destination: Destination[T],
        options: PublishingOptions,
        *,
        rng: random.Random | None = None,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._destination = destination
        self._options = options
        self._rng = rng or random.Random()
        self._sleep = sleep
        self._monotonic = monotonic

    def publish(self, items: Sequence[T]) -> list[Unpublished | None]:
        """Publish each item, within `longest_s`.

        Parameters
        ----------
        items
            Length n; n may be 0.

        Returns
        -------
        list of Unpublished or None
            Length n, in order; None for what was published. Nothing is raised for an item.
        """
        batch = _Batch(self._monotonic() + longest_s(self._options))
        entries = [self._entry(item) for item in items]
        for call in self._pack([entry for entry in entries if entry.refusal is None]):
            self._settle(batch, call, failures=0)
        return [entry.outcome() for entry in entries]

    def _entry(self, item: T) -> "_Entry[T]":
        entry = _Entry(item, self._destination.size(item))
        if (problem := self._destination.problem(item)) is not None:
            entry.refusal = Refusal(PublishReason.REJECTED, problem)
        elif entry.size > self._destination.max_bytes:
            entry.refusal = Refusal(
                PublishReason.TOO_LARGE,
                f"{entry.size} bytes, where a call takes {self._destination.max_bytes}",
            )
        return entry

    def _pack(self, entries: Sequence["_Entry[T]"]) -> Iterator[Sequence["_Entry[T]"]]:
        """Cut entries into calls of neighbours, none beyond the destination's bounds."""
        start, size = 0, 0
        for position, entry in enumerate(entries):
            if position > start and (
                position - start == self._destination.max_items
                or size + entry.size > self._destination.max_bytes
            ):
                yield entries[start:position]
                start, size = position, 0
            size += entry.size
        if start < len(entries):
            yield entries[start:]

    def _settle(self, batch: "_Batch", entries: Sequence["_Entry[T]"], failures: int) -> None:
        """Send entries in one call until each is published or given up.

        `failures` counts the calls that they were part of and that may heal: halves of a rejected
        call inherit them.
        """
        while True:
            if batch.end is None and not self._has_time(batch, 0.0):
                batch.end = Refusal(PublishReason.OUT_OF_TIME, "the time of the batch was up")
            if batch.end is not None:
                _give_up(entries, batch.end)
                return
            try:
                refusals = self._attempt(entries)
            except (boto.ClientError, boto.BotoCoreError, UnicodeError) as error:
                refusal = classified(error)
                if refusal.reason in _IN_CONTENT and len(entries) > 1:
                    middle = len(entries) // 2
                    self._settle(batch, entries[:middle], failures)
                    self._settle(batch, entries[middle:], failures)
                    return
                if refusal.reason not in _IN_CONTENT | _HEALS:
                    batch.end = refusal
                refusals = [refusal] * len(entries)
            for entry, answer in zip(entries, refusals, strict=True):
                entry.refusal = answer
            entries = [entry for entry in entries if entry.may_heal]
            failures += 1
            if not entries or failures >= self._options.max_attempts:
                return
            pause_s = self._rng.uniform(0.0, _longest_pause_s(self._options, failures))
            if not self._has_time(batch, pause_s):
                return
            self._sleep(pause_s)

    def _attempt(self, entries: Sequence["_Entry[T]"]) -> Sequence[Refusal | None]:
        for entry in entries:
            entry.attempts += 1
        return self._destination.send([entry.item for entry in entries])

    def _has_time(self, batch: "_Batch", pause_s: float) -> bool:
        """Whether a whole attempt still fits after a pause."""
        return self._monotonic() + pause_s + self._options.attempt_timeout_s <= batch.deadline_s


@dataclass(slots=True)
class _Batch:
    """What the calls of one batch share: when it must end, and why it has ended before."""

    deadline_s: float
    end: Refusal | None = None


@dataclass(slots=True)
class _Entry(Generic[T]):
    """An item on its way: the calls it was part of, and what the last one said of it."""

    item: T
    size: int
    attempts: int = 0
    refusal: Refusal | None = None

    @property
    def may_heal(self) -> bool:
        return self.refusal is not None and self.refusal.reason in _HEALS

    def outcome(self) -> Unpublished | None:
        if self.refusal is None:
            return None
        return Unpublished(self.refusal.reason, self.refusal.message, self.attempts)


def longest_s(options: PublishingOptions) -> float:
    """Return the time after which a batch of any size is through, in seconds.

    Room for `max_attempts` attempts with their pauses at the longest, and for one attempt more. A
    batch whose calls succeed may use it too: what does not fit any more ends as `OUT_OF_TIME`. What
    the socket's timeouts do not cover (resolving a name, trying further addresses of a host) comes
    on top, so that a checkpoint should have several times as long.

    >>> round(longest_s(PublishingOptions("us-east-1", attempt_timeout_s=5.0, max_attempts=5)), 1)
    33.0
    """
    pauses_s = sum(
        _longest_pause_s(options, failures) for failures in range(1, options.max_attempts)
    )
    return (options.max_attempts + 1) * options.attempt_timeout_s + pauses_s


def dimension_value(category: str) -> str:
    """Return a category as CloudWatch takes it for a dimension's value.

    Percent-encoded as UTF-8 where it must be: all but printable ASCII, the percent sign itself, a
    colon in front, and one space of a value that is blank. No two categories share a value;
    `urllib.parse.unquote` returns the category.

    Parameters
    ----------
    category
        1 to 256 bytes of UTF-8.

    Returns
    -------
    str
        1 to 768 characters of printable ASCII.

    Examples
    --------
    >>> dimension_value("Gift Card"), dimension_value("Café"), dimension_value(":-)")
    ('Gift Card', 'Caf%C3%A9', '%3A-)')
    """
    # A lone surrogate is no text, but must not raise either.
    value = quote(category, safe=_SAFE, errors="surrogatepass")
    if value.startswith(":") or value.isspace():
        value = f"%{ord(value[0]):02X}{value[1:]}"
    return value


def cloudwatch_client(options: PublishingOptions) -> "CloudWatchClient":
    """Return a CloudWatch client; credentials come from the SDK's default chain."""
    return Session().client(
        "cloudwatch",
        region_name=options.region,
        endpoint_url=options.endpoint_url,
        config=_client_config(options),
    )


def sns_client(options: PublishingOptions) -> "SNSClient":
    """Return an SNS client; credentials come from the SDK's default chain."""
    return Session().client(
        "sns",
        region_name=options.region,
        endpoint_url=options.endpoint_url,
        config=_client_config(options),
    )


def classified(error: Exception) -> Refusal:
    """Say why a whole call failed.

    Throttling, 5xx, lost connections and credentials under renewal heal. Access, credentials and a
    missing topic concern every call. Whatever else the service does not take is in the content.
    """
    if not isinstance(error, boto.ClientError):
        reason = PublishReason.UNAVAILABLE
        if isinstance(error, _CONTENT_ERRORS):
            reason = PublishReason.REJECTED
        elif isinstance(error, _CREDENTIAL_ERRORS):
            reason = PublishReason.DENIED
        return Refusal(reason, f"{type(error).__name__}: {error}"[:_MAX_MESSAGE_CHARS])
    response: dict[str, Any] = dict(error.response)
    code = str(response.get("Error", {}).get("Code", ""))
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    message = f"{code} ({status})"
    # The service quotes the signed request, with its session token, where signatures differ.
    if "Signature" not in code:
        message = f"{message}: {response.get('Error', {}).get('Message', '')}"
    return Refusal(_reason(code, status), message[:_MAX_MESSAGE_CHARS])


def _reason(code: str, status: int) -> PublishReason:
    """Sort an error by its code, and by its HTTP status where the code says nothing."""
    code = code.removesuffix("Exception")
    if is_throttling(code) or status == 429:
        return PublishReason.THROTTLED
    if code in _UNAVAILABLE_CODES or status == 408 or not 400 <= status < 500:
        return PublishReason.UNAVAILABLE
    if code in _TOO_LARGE_CODES or status == 413:
        return PublishReason.TOO_LARGE
    # KMS: the topic is encrypted with a key that cannot be used.
    if code in _DENIED_CODES or code.startswith("KMS") or status in (401, 403):
        return PublishReason.DENIED
    if code in _NOT_FOUND_CODES or status == 404:
        return PublishReason.NOT_FOUND
    return PublishReason.REJECTED


def _give_up(entries: Sequence[_Entry[T]], refusal: Refusal) -> None:
    """Note why entries are not sent, or not again: what they were told themselves says more."""
    for entry in entries:
        entry.refusal = entry.refusal or refusal


def _datum(point: MetricPoint) -> "MetricDatumTypeDef":
    return {
        "MetricName": point.name,
        "Dimensions": [
            {"Name": CATEGORY_DIMENSION, "Value": dimension_value(point.category)},
        ],
        "Timestamp": _EPOCH + timedelta(milliseconds=point.time_ms),
        "Value": point.value,
        "StorageResolution": point.resolution_s,
    }


def _longest_pause_s(options: PublishingOptions, failures: int) -> float:
    # The exponent is bounded because 2**failures overflows a float in the end.
    return min(options.backoff_cap_s, options.backoff_base_s * 2.0 ** min(failures, 30))


def _client_config(options: PublishingOptions) -> Config:
    return Config(
        connect_timeout=options.attempt_timeout_s / 2,
        read_timeout=options.attempt_timeout_s / 2,
        retries={"total_max_attempts": 1},
    )
