"""CloudWatch and SNS in batches: over an emulator in the process, and over fakes that fail."""

import json
import math
import random
import socket
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote, urlencode

import boto3
import pytest
from botocore import exceptions as boto
from botocore.serialize import create_serializer
from botocore.stub import Stubber
from hypothesis import given
from hypothesis import strategies as st
from moto import mock_aws

from udfs.core.predictions import ScoreReason
from udfs.core.publishing import (
    ALERT_SUBJECT,
    Alert,
    CloudWatchMetrics,
    MetricPoint,
    Publisher,
    PublishingOptions,
    PublishReason,
    Refusal,
    SnsAlerts,
    Unpublished,
    classified,
    cloudwatch_client,
    dimension_value,
    longest_s,
    sns_client,
)

OPTIONS = PublishingOptions(region="us-east-1", attempt_timeout_s=1.0, max_attempts=3)
TOPIC_ARN = "arn:aws:sns:us-east-1:123456789012:rating-alerts"
NAMESPACE = "kinesis/analytics/AVGStarRating"
NOW_MS = 1_790_000_000_000


class Clock:
    """Time that only passes in pauses and calls."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.pauses_s: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, pause_s: float) -> None:
        self.pauses_s.append(pause_s)
        self.now_s += pause_s


class FakeService:
    """A destination of texts, with an answer of the test's choice to each call."""

    def __init__(
        self,
        answer: Callable[[Sequence[str]], Sequence[Refusal | None]],
        *,
        max_items: int = 10,
        max_bytes: int = 100,
    ) -> None:
        self.max_items, self.max_bytes = max_items, max_bytes
        self.calls: list[list[str]] = []
        self._answer = answer

    def size(self, item: str) -> int:
        return len(item)

    def problem(self, item: str) -> str | None:
        return "no text" if item == "" else None

    def send(self, items: Sequence[str]) -> Sequence[Refusal | None]:
        self.calls.append(list(items))
        return self._answer(items)


def takes_all(items: Sequence[str]) -> list[Refusal | None]:
    return [None] * len(items)


def client_error(code: str, status: int = 400, message: str = "why") -> boto.ClientError:
    response: Any = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return boto.ClientError(response, "Operation")


def publisher(
    service: FakeService, clock: Clock | None = None, options: PublishingOptions = OPTIONS
) -> Publisher[str]:
    clock = clock or Clock()
    return Publisher(service, options, rng=random.Random(0), sleep=clock.sleep, monotonic=clock)


def reasons(results: Sequence[Unpublished | None]) -> list[str | None]:
    return [result and result.reason.value for result in results]


# --- the publisher ------------------------------------------------------------------------------


@given(
    sizes=st.lists(st.integers(0, 30), max_size=60),
    max_items=st.integers(1, 12),
    max_bytes=st.integers(1, 40),
    failures=st.lists(
        st.sampled_from(["", "Throttling", "InternalFailure", "InvalidParameterValue"]), max_size=40
    ),
)
def test_calls_keep_within_bounds_and_each_item_has_one_outcome(
    sizes: list[int], max_items: int, max_bytes: int, failures: list[str]
) -> None:
    published: list[str] = []
    left = iter(failures)

    def answer(items: Sequence[str]) -> list[Refusal | None]:
        assert 1 <= len(items) <= max_items
        assert sum(len(item) for item in items) <= max_bytes
        if code := next(left, ""):
            raise client_error(code)
        published.extend(items)
        return takes_all(items)

    # Each item repeats a character of its own.
    items = [chr(0xE000 + number) * size for number, size in enumerate(sizes)]
    clock = Clock()
    results = publisher(
        FakeService(answer, max_items=max_items, max_bytes=max_bytes), clock
    ).publish(items)

    assert len(results) == len(items)
    assert sorted(published) == sorted(
        item for item, result in zip(items, results, strict=True) if result is None
    )
    for item, result in zip(items, results, strict=True):
        if len(item) > max_bytes:
            assert (result and result.reason) == PublishReason.TOO_LARGE
        elif item == "":
            assert (result and result.reason) == PublishReason.REJECTED
        elif not failures:
            assert result is None
    assert clock.now_s - 100.0 <= longest_s(OPTIONS)


@given(bad=st.sets(st.integers(0, 99), max_size=6))
def test_one_bad_item_costs_one_item(bad: set[int]) -> None:
    bad_items = {f"item {number}" for number in bad}

    def answer(items: Sequence[str]) -> list[Refusal | None]:
        if bad_items.intersection(items):
            raise client_error("InvalidParameterValue")
        return takes_all(items)

    service = FakeService(answer, max_items=100, max_bytes=10_000)
    clock = Clock()
    results = publisher(service, clock).publish([f"item {number}" for number in range(100)])
    assert {number for number, result in enumerate(results) if result} == bad
    assert set(reasons(results)) <= {None, "rejected"}
    assert len(service.calls) <= 1 + 2 * 7 * len(bad)
    assert not clock.pauses_s


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        # As CloudWatch and SNS send it: a 400, so that only the code tells.
        (client_error("Throttling", 400), PublishReason.THROTTLED),
        (client_error("InternalServiceError", 500), PublishReason.UNAVAILABLE),
        (boto.ReadTimeoutError(endpoint_url="http://127.0.0.1"), PublishReason.UNAVAILABLE),
    ],
)
def test_what_heals_is_retried_with_growing_pauses(
    failure: Exception, reason: PublishReason
) -> None:
    times = 0

    def answer(items: Sequence[str]) -> list[Refusal | None]:
        nonlocal times
        times += 1
        if times <= heals_after:
            raise failure
        return takes_all(items)

    heals_after = 2
    clock = Clock()
    assert publisher(FakeService(answer), clock).publish(["a", "b"]) == [None, None]
    assert len(clock.pauses_s) == 2
    assert 0 <= clock.pauses_s[0] <= 0.2
    assert 0 <= clock.pauses_s[1] <= 0.4

    times, heals_after = 0, 99
    service = FakeService(answer)
    results = publisher(service).publish(["a", "b"])
    assert [(result.reason, result.attempts) for result in results if result] == [(reason, 3)] * 2
    assert service.calls == [["a", "b"]] * 3


def test_only_the_refused_items_of_a_call_are_sent_again() -> None:
    def answer(items: Sequence[str]) -> list[Refusal | None]:
        first = len(service.calls) == 1
        return [
            {
                "bad": Refusal(PublishReason.REJECTED, "bad"),
                "slow": Refusal(PublishReason.THROTTLED, "slow"),
                "shy": Refusal(PublishReason.UNAVAILABLE, "shy") if first else None,
            }.get(item)
            for item in items
        ]

    service = FakeService(answer)
    results = publisher(service).publish(["good", "slow", "bad", "shy"])
    assert service.calls == [["good", "slow", "bad", "shy"], ["slow", "shy"], ["slow"]]
    assert results == [
        None,
        Unpublished(PublishReason.THROTTLED, "slow", 3),
        Unpublished(PublishReason.REJECTED, "bad", 1),
        None,
    ]


def test_halves_inherit_the_failures_of_the_whole() -> None:
    def answer(items: Sequence[str]) -> list[Refusal | None]:
        if len(items) > 1:
            raise client_error("Throttling" if len(service.calls) < 3 else "InvalidParameterValue")
        raise client_error("Throttling")

    service = FakeService(answer)
    results = publisher(service).publish(["a", "b"])
    assert service.calls == [["a", "b"]] * 3 + [["a"], ["b"]]
    assert reasons(results) == ["throttled", "throttled"]


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (client_error("AccessDeniedException", 400), "denied"),
        (client_error("AuthorizationError", 403), "denied"),
        (client_error("NotFound", 404), "not_found"),
        (boto.NoCredentialsError(), "denied"),
    ],
)
def test_what_concerns_every_call_is_asked_once_a_batch(failure: Exception, reason: str) -> None:
    def answer(items: Sequence[str]) -> list[Refusal | None]:
        if len(service.calls) == 2:
            raise failure
        return takes_all(items)

    service, clock = FakeService(answer, max_items=2), Clock()
    under_test = publisher(service, clock)
    results = under_test.publish(list("abcdef"))
    assert reasons(results) == [None, None, *[reason] * 4]
    assert [result.attempts for result in results if result] == [1, 1, 0, 0]
    assert service.calls == [["a", "b"], ["c", "d"]]
    assert not clock.pauses_s
    # The next batch asks anew: permissions and topics come to be.
    assert under_test.publish(["g"]) == [None]


def test_a_batch_of_any_length_ends_in_time() -> None:
    clock = Clock()

    def hang(items: Sequence[str]) -> list[Refusal | None]:
        clock.now_s += OPTIONS.attempt_timeout_s
        raise boto.ReadTimeoutError(endpoint_url="http://127.0.0.1")

    results = publisher(FakeService(hang, max_items=1), clock).publish(["a"] * 1_000)
    assert clock.now_s - 100.0 <= longest_s(OPTIONS)
    assert results[0] is not None
    assert results[0].reason == PublishReason.UNAVAILABLE
    assert results[0].attempts == OPTIONS.max_attempts
    assert results[-1] == Unpublished(PublishReason.OUT_OF_TIME, "the time of the batch was up", 0)


def test_what_was_told_of_an_item_outlives_the_end_of_time() -> None:
    clock = Clock()

    def throttle_slowly(items: Sequence[str]) -> list[Refusal | None]:
        clock.now_s += longest_s(OPTIONS) - 0.9
        raise client_error("Throttling")

    results = publisher(FakeService(throttle_slowly, max_items=1), clock).publish(["a", "b"])
    assert reasons(results) == ["throttled", "out_of_time"]
    # There is nothing left to wait for.
    assert not clock.pauses_s


def test_a_bad_neighbour_does_not_hide_what_was_told_before() -> None:
    def answer(items: Sequence[str]) -> list[Refusal | None]:
        if len(service.calls) == 1:
            raise client_error("Throttling")
        clock.now_s += longest_s(OPTIONS)
        raise client_error("InvalidParameterValue")

    service, clock = FakeService(answer), Clock()
    assert reasons(publisher(service, clock).publish(["a", "b"])) == ["throttled"] * 2


def test_an_empty_batch_asks_nobody() -> None:
    service = FakeService(takes_all)
    assert publisher(service).publish([]) == []
    assert service.calls == []


@given(
    attempt_timeout_s=st.floats(0.1, 60),
    max_attempts=st.integers(1, 20),
    seed=st.integers(),
)
def test_the_longest_time_has_room_for_every_attempt(
    attempt_timeout_s: float, max_attempts: int, seed: int
) -> None:
    options = PublishingOptions(
        "us-east-1", attempt_timeout_s=attempt_timeout_s, max_attempts=max_attempts
    )
    clock = Clock()

    def hang(items: Sequence[str]) -> list[Refusal | None]:
        clock.now_s += attempt_timeout_s
        raise boto.ConnectTimeoutError(endpoint_url="http://127.0.0.1")

    (result,) = Publisher(
        FakeService(hang), options, rng=random.Random(seed), sleep=clock.sleep, monotonic=clock
    ).publish(["a"])
    assert result is not None
    assert result.attempts == max_attempts
    assert clock.now_s - 100.0 <= longest_s(options)


# --- what errors mean ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (client_error("Throttling"), "throttled"),
        (client_error("ThrottlingException"), "throttled"),
        (client_error("Throttled", 429), "throttled"),
        (client_error("KMSThrottling"), "throttled"),
        (client_error("TooManyRequestsException"), "throttled"),
        (client_error("Whatever", 429), "throttled"),
        (client_error("InternalFailure", 500), "unavailable"),
        (client_error("", 503), "unavailable"),
        (client_error("", 301), "unavailable"),
        (client_error("ExpiredToken", 403), "unavailable"),
        (client_error("ExpiredTokenException"), "unavailable"),
        (client_error("InvalidParameterValue"), "rejected"),
        (client_error("InvalidParameter"), "rejected"),
        (client_error("ValidationError"), "rejected"),
        (client_error("BatchRequestTooLong"), "too_large"),
        (client_error("", 413), "too_large"),
        (client_error("AccessDenied", 403), "denied"),
        (client_error("UnrecognizedClientException"), "denied"),
        (client_error("InvalidClientTokenId", 403), "denied"),
        (client_error("KMSAccessDenied"), "denied"),
        (client_error("NotFound", 404), "not_found"),
        (boto.EndpointConnectionError(endpoint_url="http://127.0.0.1"), "unavailable"),
        (boto.ConnectionClosedError(endpoint_url="http://127.0.0.1"), "unavailable"),
        (
            boto.CredentialRetrievalError(provider="container-role", error_msg="503"),
            "unavailable",
        ),
        (boto.PartialCredentialsError(provider="env", cred_var="key"), "denied"),
        (boto.ParamValidationError(report="too long"), "rejected"),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"), "rejected"),
    ],
)
def test_errors_are_sorted_by_whose_they_are(error: Exception, reason: str) -> None:
    assert classified(error).reason == reason


def test_a_message_names_the_code_and_never_a_signature() -> None:
    assert classified(client_error("InvalidParameterValue")).message == (
        "InvalidParameterValue (400): why"
    )
    for code in ("SignatureDoesNotMatch", "InvalidSignatureException", "IncompleteSignature"):
        refusal = classified(client_error(code, 403, "x-amz-security-token:secret"))
        assert refusal.reason == PublishReason.DENIED
        assert "secret" not in refusal.message
    assert len(classified(client_error("Throttling", 400, "x" * 5_000)).message) <= 1_000


def test_reasons_are_short_codes_apart_from_those_of_scoring_and_all_explained() -> None:
    for reason in PublishReason:
        assert reason.value == reason.name.lower()
        assert f"    {reason.name}\n" in (PublishReason.__doc__ or "")
    assert not {reason.value for reason in PublishReason} & {reason.value for reason in ScoreReason}


# --- CloudWatch ---------------------------------------------------------------------------------


def point(number: int = 0, **fields: Any) -> MetricPoint:
    return MetricPoint(
        **{
            "name": "AVGStarRating",
            "category": f"Category {number}",
            "time_ms": NOW_MS,
            "value": 4.5,
            **fields,
        }
    )


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")


@pytest.mark.usefixtures("credentials")
def test_points_can_be_read_back() -> None:
    points = [
        point(category=category, name=name, time_ms=NOW_MS + 5_000 * window, value=value)
        for category in ("All", "Gift Card", "Café 😀", ":-)", "50% off")
        for window in range(3)
        for name, value in (("AVGStarRating", 4.0 + window / 8), ("DistinctReviews", 7.0))
    ]
    start = datetime.fromtimestamp(NOW_MS / 1000, UTC)
    with mock_aws():
        client = cloudwatch_client(OPTIONS)
        results = Publisher(CloudWatchMetrics(client, NAMESPACE), OPTIONS).publish(points)
        assert results == [None] * len(points)
        found = []
        for metric in client.list_metrics(Namespace=NAMESPACE)["Metrics"]:
            (dimension,) = metric["Dimensions"]
            assert dimension["Name"] == "Product Category"
            answer = client.get_metric_data(
                MetricDataQueries=[
                    {
                        "Id": "values",
                        "MetricStat": {"Metric": metric, "Period": 1, "Stat": "Average"},
                    }
                ],
                StartTime=start,
                EndTime=start + timedelta(minutes=1),
            )["MetricDataResults"][0]
            found += [
                MetricPoint(
                    metric["MetricName"],
                    unquote(dimension["Value"]),
                    round(time.timestamp() * 1000),
                    value,
                )
                for time, value in zip(answer["Timestamps"], answer["Values"], strict=True)
            ]
    assert sorted(found, key=repr) == sorted(points, key=repr)


@pytest.mark.usefixtures("credentials")
def test_a_point_that_the_service_rejects_stands_alone() -> None:
    def refuse_old(params: Any, **_: Any) -> Any:
        old = [datum for datum in params["MetricData"] if datum["Timestamp"].year < 2000]
        if old:
            raise client_error("InvalidParameterValue", 400, "not within the past two weeks")

    points = [point(number) for number in range(200)]
    points[17] = point(17, time_ms=0)
    with mock_aws():
        client = cloudwatch_client(OPTIONS)
        client.meta.events.register("provide-client-params.cloudwatch.PutMetricData", refuse_old)
        results = Publisher(CloudWatchMetrics(client, NAMESPACE), OPTIONS).publish(points)
        assert len(client.list_metrics(Namespace=NAMESPACE)["Metrics"]) == 199
    assert [number for number, result in enumerate(results) if result] == [17]
    assert reasons(results)[17] == "rejected"
    # The whole call, and seven halves down to the one.
    assert results[17].attempts == 9  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "fields",
    [
        {"value": math.nan},
        {"value": math.inf},
        {"value": -math.inf},
        {"value": 2.0**361},
        {"time_ms": -(2**63)},
        {"time_ms": 253_402_300_800_000},
    ],
)
def test_what_is_no_number_or_time_is_not_asked_for(fields: dict[str, Any]) -> None:
    class Client:
        def put_metric_data(self, **request: Any) -> None:
            sent.extend(request["MetricData"])

    sent: list[Any] = []
    destination: Any = CloudWatchMetrics(Client(), NAMESPACE)  # type: ignore[arg-type]
    results = Publisher(destination, OPTIONS).publish([point(), point(**fields)])
    assert reasons(results) == [None, "rejected"]
    assert results[1] is not None
    assert results[1].attempts == 0
    assert [datum["Value"] for datum in sent] == [4.5]


@pytest.mark.parametrize("protocol", ["json", "query", "smithy-rpc-v2-cbor"])
@pytest.mark.parametrize(
    "category",
    ["a", "a" * 256, "é" * 128, "😀" * 64, '"\\ %' * 64],
    ids=["short", "ascii", "accents", "emoji", "punctuation"],
)
def test_a_point_takes_no_more_than_estimated_in_any_form_of_the_api(
    protocol: str, category: str
) -> None:
    class Client:
        def put_metric_data(self, **request: Any) -> None:
            model = cloudwatch_client(OPTIONS).meta.service_model.operation_model("PutMetricData")
            body = create_serializer(protocol).serialize_to_request(request, model)["body"]
            bodies.append(len(urlencode(body) if isinstance(body, dict) else body))

    bodies: list[int] = []
    metrics = CloudWatchMetrics(Client(), NAMESPACE)  # type: ignore[arg-type]
    points = [point(category=category, name="DistinctReviews", value=1 / 3)] * 1_000
    metrics.send(points)
    # All that belongs to no point: namespace, action, version.
    assert bodies[0] <= sum(metrics.size(item) for item in points) + 1_000


def test_ordinary_points_fill_a_call_by_number_not_by_size() -> None:
    metrics = CloudWatchMetrics(None, NAMESPACE)  # type: ignore[arg-type]
    points = [point(number, name="DistinctReviews") for number in range(metrics.max_items)]
    assert sum(metrics.size(item) for item in points) <= metrics.max_bytes


@pytest.mark.usefixtures("credentials")
def test_a_point_that_the_sdk_rejects_stands_alone() -> None:
    with mock_aws():
        destination = CloudWatchMetrics(cloudwatch_client(OPTIONS), NAMESPACE)
        results = Publisher(destination, OPTIONS).publish([point(1), point(category=""), point(2)])
    assert reasons(results) == [None, "rejected", None]


def test_the_client_has_the_timeouts_and_no_retries_of_its_own() -> None:
    for make_client in (cloudwatch_client, sns_client):
        config = make_client(OPTIONS).meta.config
        assert config.connect_timeout + config.read_timeout == OPTIONS.attempt_timeout_s
        assert config.retries["total_max_attempts"] == 1


@pytest.mark.usefixtures("credentials")
@pytest.mark.timeout(60)
def test_a_service_that_never_answers_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        options = PublishingOptions(
            region="us-east-1",
            endpoint_url=f"http://127.0.0.1:{silent.getsockname()[1]}",
            attempt_timeout_s=0.4,
            max_attempts=2,
        )
        destination = SnsAlerts(sns_client(options), TOPIC_ARN)
        (result,) = Publisher(destination, options).publish([Alert("event", "{}")])
    assert result is not None
    assert result.reason == PublishReason.UNAVAILABLE
    assert result.message.startswith("ReadTimeoutError")


@pytest.mark.usefixtures("credentials")
def test_a_stubbed_service_is_asked_as_often_as_allowed() -> None:
    client = cloudwatch_client(OPTIONS)
    clock = Clock()
    under_test = Publisher(
        CloudWatchMetrics(client, NAMESPACE), OPTIONS, sleep=clock.sleep, monotonic=clock
    )
    with Stubber(client) as stubber:
        stubber.add_client_error("put_metric_data", "Throttling", "Rate exceeded", 400)
        stubber.add_client_error("put_metric_data", "InternalServiceError", "", 500)
        stubber.add_response("put_metric_data", {})
        assert under_test.publish([point()]) == [None]
        for _ in range(3):
            stubber.add_client_error("put_metric_data", "Throttling", "Rate exceeded", 400)
        assert under_test.publish([point()]) == [
            Unpublished(PublishReason.THROTTLED, "Throttling (400): Rate exceeded", 3)
        ]
        stubber.assert_no_pending_responses()


# --- dimension values ---------------------------------------------------------------------------

printable = st.characters(exclude_categories=("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
categories = st.one_of(
    st.text(printable, min_size=1, max_size=64),
    st.text(" :%é4", min_size=1, max_size=8),
).filter(lambda text: len(text.encode()) <= 256)


@given(categories)
def test_a_dimension_value_is_what_cloudwatch_takes_and_leads_back(category: str) -> None:
    value = dimension_value(category)
    assert 1 <= len(value) <= 1_024
    assert value.isascii()
    assert value.isprintable()
    assert not value.startswith(":")
    assert value.strip()
    # Which makes it injective.
    assert unquote(value) == category


@given(st.text("".join(map(chr, range(0x21, 0x7F))).replace("%", "").replace(":", ""), min_size=1))
def test_plain_ascii_stays_as_it_is(category: str) -> None:
    assert dimension_value(category) == category


@pytest.mark.parametrize(
    ("category", "value"),
    [
        ("All", "All"),
        ("Gift Card", "Gift Card"),
        ("a:b", "a:b"),
        (":b", "%3Ab"),
        ("%3Ab", "%253Ab"),
        ("  ", "%20 "),
        ("電子書", "%E9%9B%BB%E5%AD%90%E6%9B%B8"),
        ("\ud800", "%ED%A0%80"),
    ],
)
def test_dimension_values_by_example(category: str, value: str) -> None:
    assert dimension_value(category) == value


# --- SNS ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("credentials")
def test_alerts_arrive_with_subject_and_event_id() -> None:
    alerts = [Alert(f"event-{number}", json.dumps({"é": number})) for number in range(25)]
    with mock_aws():
        sns = sns_client(OPTIONS)
        sqs = boto3.client("sqs", region_name="us-east-1")
        topic_arn = sns.create_topic(Name="rating-alerts")["TopicArn"]
        queue_url = sqs.create_queue(QueueName="rating-alerts")["QueueUrl"]
        queue_arn = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])
        sns.subscribe(
            TopicArn=topic_arn, Protocol="sqs", Endpoint=queue_arn["Attributes"]["QueueArn"]
        )
        results = Publisher(SnsAlerts(sns, topic_arn), OPTIONS).publish(alerts)
        received = []
        while messages := sqs.receive_message(QueueUrl=queue_url, MaxNumberOfMessages=10).get(
            "Messages"
        ):
            received += [json.loads(message["Body"]) for message in messages]
    assert results == [None] * 25
    assert {message["Subject"] for message in received} == {ALERT_SUBJECT}
    assert sorted(
        (message["MessageAttributes"]["event_id"]["Value"], message["Message"])
        for message in received
    ) == sorted((alert.event_id, alert.message) for alert in alerts)


@pytest.mark.usefixtures("credentials")
def test_no_topic_no_alert() -> None:
    with mock_aws():
        results = Publisher(SnsAlerts(sns_client(OPTIONS), TOPIC_ARN), OPTIONS).publish(
            [Alert(str(number), "{}") for number in range(15)]
        )
    assert reasons(results) == ["not_found"] * 15


class FakeSns:
    """Answers each entry of a batch as its event's name says."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def publish_batch(self, **request: Any) -> dict[str, Any]:
        entries = request["PublishBatchRequestEntries"]
        names = [entry["MessageAttributes"]["event_id"]["StringValue"] for entry in entries]
        self.calls.append(names)
        answer: dict[str, Any] = {"Successful": [], "Failed": []}
        for entry, name in zip(entries, names, strict=True):
            match name.split("/"):
                case ["unmentioned", times] if self.seen(name) <= int(times):
                    pass
                case [code, fault, times] if self.seen(name) <= int(times):
                    answer["Failed"].append(
                        {
                            "Id": entry["Id"],
                            "Code": code,
                            "SenderFault": fault == "sender",
                            "Message": "why",
                        }
                    )
                case _:
                    answer["Successful"].append({"Id": entry["Id"], "MessageId": "1"})
        # The service promises no order.
        answer["Failed"].reverse()
        return answer

    def seen(self, name: str) -> int:
        return sum(names.count(name) for names in self.calls)


@pytest.mark.parametrize(
    ("event_id", "outcome"),
    [
        ("fine", None),
        ("InternalError/service/2", None),
        ("InternalError/service/9", ("unavailable", 3)),
        ("Throttled/service/9", ("throttled", 3)),
        ("AnythingNew/service/2", None),
        ("AnythingNew/sender/1", ("rejected", 1)),
        ("KMSThrottling/sender/1", None),
        ("InvalidParameter/sender/1", ("rejected", 1)),
        ("AuthorizationError/sender/1", ("denied", 1)),
        ("unmentioned/2", None),
        ("unmentioned/9", ("unavailable", 3)),
    ],
)
def test_each_message_of_a_batch_has_its_own_fate(
    event_id: str, outcome: tuple[str, int] | None
) -> None:
    client, clock = FakeSns(), Clock()
    destination: Any = SnsAlerts(client, TOPIC_ARN)  # type: ignore[arg-type]
    under_test = Publisher(destination, OPTIONS, sleep=clock.sleep, monotonic=clock)
    results = under_test.publish([Alert(name, "{}") for name in ("before", event_id, "after")])
    assert results[0] is None
    assert results[2] is None
    found = results[1] and (results[1].reason.value, results[1].attempts)
    assert found == outcome
    assert client.calls[0] == ["before", event_id, "after"]
    assert all(call == [event_id] for call in client.calls[1:])


@given(
    sizes=st.lists(
        st.one_of(st.integers(0, 2_000), st.integers(250_000, 262_200)), min_size=1, max_size=30
    )
)
def test_calls_of_alerts_stay_under_the_service_limits(sizes: list[int]) -> None:
    class Client:
        def publish_batch(self, **request: Any) -> dict[str, Any]:
            entries = request["PublishBatchRequestEntries"]
            assert 1 <= len(entries) <= 10
            assert len({entry["Id"] for entry in entries}) == len(entries)
            texts = [
                text
                for entry in entries
                for text in (
                    entry["Message"],
                    entry["Subject"],
                    *entry["MessageAttributes"],
                    *entry["MessageAttributes"]["event_id"].values(),
                )
            ]
            assert sum(len(text.encode()) for text in texts) <= 262_144
            return {"Successful": [{"Id": entry["Id"]} for entry in entries]}

    destination: Any = SnsAlerts(Client(), TOPIC_ARN)  # type: ignore[arg-type]
    # Two bytes a character: bytes count, not characters.
    alerts = [Alert("event", "é" * (size // 2) + "e" * (size % 2)) for size in sizes]
    results = Publisher(destination, OPTIONS).publish(alerts)
    overhead = len(ALERT_SUBJECT) + len("event_id" + "String" + "event")
    assert reasons(results) == [
        "too_large" if size + overhead > 262_144 else None for size in sizes
    ]


@pytest.mark.usefixtures("credentials")
def test_a_text_that_cannot_be_sent_is_sent_without_what_is_wrong() -> None:
    with mock_aws():
        sns = sns_client(OPTIONS)
        topic_arn = sns.create_topic(Name="rating-alerts")["TopicArn"]
        results = Publisher(SnsAlerts(sns, topic_arn), OPTIONS).publish(
            [Alert("1", "{}"), Alert("2", "\ud800"), Alert("\ufffe", "{}")]
        )
    assert reasons(results) == [None, None, None]
