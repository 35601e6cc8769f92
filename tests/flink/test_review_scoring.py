"""The job's transform on an embedded Flink, its own statements, with files instead of streams."""

import base64
import functools
import hashlib
import json
from pathlib import Path

import pytest
from pyflink.table import DataTypes, TableEnvironment
from pyflink.table.udf import UserDefinedScalarFunctionWrapper

from flink_jobs import review_scoring, streams
from tests import corpus
from tests.flink.fake_endpoint import OUTAGE, POISON, FakeEndpoint, rating_of, requests
from tests.flink.tables import file_table, lines, optimised_plan
from udfs.core.categories import CategoryOptions
from udfs.core.invocations import CONTROL_TEXT, ScoringOptions
from udfs.core.parsing import ParsingOptions
from udfs.dead_letters import digest_payload
from udfs.parsing import parse_review, split_record
from udfs.scoring import PREDICTION, ScoreReviews, udf

ARRIVAL_MS = 1_790_000_000_123  # 2026-09-21T14:13:20.123Z


def review(number: int, body: str, **fields: object) -> bytes:
    record = {"review_id": f"R{number}", "product_category": "Gift_Card", "review_body": body}
    return json.dumps({**record, **fields}, ensure_ascii=False).encode()


PAYLOADS = [
    *(review(number, f"text {number} é 😀 <br /> \u0001") for number in range(10)),
    review(10, POISON),
    review(11, "late", event_time="2026-09-21T14:12:00Z"),
    b"\xff",
    b"[]",
    review(12, "a" * 2_000),
]
OPTIONS = ParsingOptions(max_body_bytes=1_000)
ANY_CATEGORY = CategoryOptions()


def score_review(tmp_path: Path) -> UserDefinedScalarFunctionWrapper:
    """Return the SQL function over a `FakeEndpoint`, with four rows a request."""
    (tmp_path / "requests").mkdir()
    score_reviews = ScoreReviews(
        functools.partial(FakeEndpoint, tmp_path / "requests"), ScoringOptions(max_request_rows=4)
    )
    return udf(score_reviews, result_type=PREDICTION, func_type="pandas", deterministic=False)


@pytest.fixture
def outputs(t_env: TableEnvironment, tmp_path: Path) -> Path:
    """Run the job over `PAYLOADS` and return where its sinks' files are."""
    run(t_env, tmp_path, PAYLOADS)
    return tmp_path


def run(
    t_env: TableEnvironment,
    tmp_path: Path,
    payloads: list[bytes],
    categories: CategoryOptions = ANY_CATEGORY,
    *,
    options: ParsingOptions = OPTIONS,
    arrival_ms: int = ARRIVAL_MS,
    several_per_record: bool = False,
) -> None:
    t_env.create_temporary_system_function("split_record", split_record(options))
    for name, function in (
        ("parse_review", parse_review(options, categories)),
        ("score_review", score_review(tmp_path)),
        ("digest_payload", digest_payload()),
    ):
        t_env.create_temporary_system_function(name, function)
    records = t_env.from_elements(
        [
            (bytearray(payload), arrival_ms, "shardId-000000000000", str(number))
            for number, payload in enumerate(payloads)
        ],
        DataTypes.ROW(
            [
                DataTypes.FIELD("payload", DataTypes.BYTES()),
                DataTypes.FIELD("arrival_ms", DataTypes.BIGINT()),
                DataTypes.FIELD("source_shard", DataTypes.STRING()),
                DataTypes.FIELD("source_sequence_number", DataTypes.STRING()),
            ]
        ),
    )
    t_env.create_temporary_view("records", records)
    t_env.execute_sql("""
        CREATE TEMPORARY VIEW reviews AS
        SELECT payload, TO_TIMESTAMP_LTZ(arrival_ms, 3) AS arrival_time, source_shard,
               source_sequence_number FROM records""")
    line = (("line", "STRING"),)
    for name, columns, data_format in (
        ("scored_reviews", streams.SCORED_REVIEW, "json"),
        ("dead_letters", streams.DEAD_LETTER, "json"),
        ("raw_archive", line, "raw"),
        ("scored_archive", line, "raw"),
    ):
        t_env.execute_sql(file_table(name, columns, tmp_path / name, data_format))
    review_scoring.create_views(t_env, "reviews", several_per_record=several_per_record)
    review_scoring.inserts(t_env).execute().wait()


def test_records_of_the_corpus_end_as_they_should(t_env: TableEnvironment, tmp_path: Path) -> None:
    # One run has one set of options: cases with others are left to the tests of the parser.
    options = ParsingOptions()
    cases = [case for case in corpus.record_cases() if case.options == options]
    run(
        t_env,
        tmp_path,
        [case.payload for case in cases],
        options=options,
        arrival_ms=corpus.ARRIVAL_MS,
    )
    scored, dead, raw = (
        {row["source_sequence_number"]: row for row in lines(tmp_path / name)}
        for name in ("scored_reviews", "dead_letters", "raw_archive")
    )
    for number, case in enumerate(cases):
        place = str(number)
        corpus.check_outcome(case, scored.get(place), dead.get(place))
        assert base64.b64decode(raw[place]["payload"]) == case.payload, case.name
    assert len(scored) + len(dead) == len(raw) == len(cases) > 150


def test_each_review_of_a_record_is_in_one_place(t_env: TableEnvironment, tmp_path: Path) -> None:
    good = [review(number, f"text {number}") for number in range(4)]
    bad = json.dumps({"review_id": "R9"}).encode()
    payloads = [good[0], b"\n".join([good[1], bad, good[2]]), b"[" + good[3] + b"]", b"\xff"]
    run(t_env, tmp_path, payloads, several_per_record=True)

    digests = [hashlib.sha256(payload).hexdigest()[:16] for payload in (*good, bad)]
    scored = {row["review_id"]: row for row in lines(tmp_path / "scored_reviews")}
    places = {
        key: (row["source_sequence_number"], row["source_part"]) for key, row in scored.items()
    }
    assert places == {
        "R0": ("0", digests[0]),
        "R1": ("1", f"{digests[1]}-0"),
        "R2": ("1", f"{digests[2]}-2"),
        "R3": ("2", digests[3]),
    }
    dead = lines(tmp_path / "dead_letters")
    assert {(row["source_sequence_number"], row["source_part"], row["reason"]) for row in dead} == {
        ("1", f"{digests[4]}-1", "missing_field"),
        ("3", hashlib.sha256(b"\xff").hexdigest()[:16], "invalid_utf8"),
    }
    raw = lines(tmp_path / "raw_archive")
    kept = sorted(base64.b64decode(row["payload"]) for row in raw)
    assert kept == sorted([*good, bad, b"\xff"])


def test_both_sinks_have_the_effective_category(t_env: TableEnvironment, tmp_path: Path) -> None:
    payloads = [
        json.dumps({"review_id": name, "product_category": name, "review_body": "Fine."}).encode()
        for name in ("Books", "B00A1", "Toys")
    ]
    run(t_env, tmp_path, payloads, CategoryOptions(allowed=frozenset({"Books", "Toys"})))
    for sink in ("scored_reviews", "scored_archive"):
        found = {
            row["review_id"]: (row["product_category"], row["reported_category"])
            for row in lines(tmp_path / sink)
        }
        assert found == {
            "Books": ("Books", None),
            "B00A1": ("Other", "B00A1"),
            "Toys": ("Toys", None),
        }


def test_every_record_is_in_one_place_with_all_that_belongs_to_it(outputs: Path) -> None:
    scored = {row["source_sequence_number"]: row for row in lines(outputs / "scored_reviews")}
    dead = {row["source_sequence_number"]: row for row in lines(outputs / "dead_letters")}
    raw = {row["source_sequence_number"]: row for row in lines(outputs / "raw_archive")}
    archived = {row["source_sequence_number"]: row for row in lines(outputs / "scored_archive")}

    assert sorted(scored, key=int) == [str(number) for number in (*range(10), 11)]
    for number, row in scored.items():
        sent = json.loads(PAYLOADS[int(number)])
        assert list(row) == [name for name, _ in streams.SCORED_REVIEW]
        assert row["source_stream"] == "reviews"
        assert row["source_shard"] == "shardId-000000000000"
        assert row["review_body"] == sent["review_body"]
        assert row["star_rating"] == rating_of(sent["review_body"])
        assert row["model_variant"] == "VariantA"
        request = json.loads((outputs / "requests" / f"{row['inference_id']}.json").read_text())
        assert request[row["inference_row"]] == sent["review_body"]
        event_time = "2026-09-21T14:12:00Z" if number == "11" else "2026-09-21T14:13:20.123Z"
        assert row["event_time"] == event_time
        assert archived[number] == row
    assert archived.keys() == scored.keys()

    assert {number: (row["stage"], row["reason"]) for number, row in dead.items()} == {
        "10": ("score", "model_error"),
        "12": ("parse", "invalid_utf8"),
        "13": ("parse", "not_object"),
        "14": ("parse", "oversize"),
    }
    for number, row in dead.items():
        payload = PAYLOADS[int(number)]
        assert base64.b64decode(row["payload"]) == payload
        assert row["payload_sha256"] == hashlib.sha256(payload).hexdigest()
        assert row["payload_bytes"] == len(payload)
        assert row["arrival_time"] == "2026-09-21T14:13:20.123Z"
    assert dead["10"]["review_id"] == "R10"
    assert dead["12"]["review_id"] is None

    assert raw.keys() == {str(number) for number in range(14)}
    for number, row in raw.items():
        assert base64.b64decode(row["payload"]) == PAYLOADS[int(number)]


def test_the_endpoint_is_asked_once_a_row(outputs: Path) -> None:
    asked = [
        text
        for request in requests(outputs / "requests")
        if request[0] != CONTROL_TEXT
        for text in request
    ]
    # The four rows of the rejected request are asked again, each by itself, and one of them twice.
    assert len(set(asked)) == 12
    assert len(asked) == 12 + 4 + 1
    assert (outputs / "requests" / "closed").exists()


def test_an_endpoint_that_is_unavailable_fails_the_job_and_says_why(
    t_env: TableEnvironment, tmp_path: Path
) -> None:
    with pytest.raises(Exception, match="no such endpoint"):
        run(t_env, tmp_path, [review(0, "fine"), review(1, OUTAGE)])


def test_the_guard_of_the_endpoint_fails_in_another_task_with_no_udf_ahead_of_it(
    tmp_path: Path,
) -> None:
    plan = optimised_plan("review_scoring", tmp_path).splitlines()
    [guard] = [place for place, line in enumerate(plan) if "CAST(message AS INTEGER)" in line]
    operators = [line.split("+- ")[-1].partition("(")[0] for line in plan[guard : guard + 5]]
    assert operators == ["Calc", "Deduplicate", "Exchange", "Calc", "Reused"]


def test_a_second_argument_names_the_variant_of_each_review(
    t_env: TableEnvironment, tmp_path: Path
) -> None:
    t_env.create_temporary_system_function("score_review", score_review(tmp_path))
    rows = [(f"text {row}", "B" if row % 3 else None) for row in range(10)]
    fields = [DataTypes.FIELD(name, DataTypes.STRING()) for name in ("text", "variant")]
    t_env.create_temporary_view("texts", t_env.from_elements(rows, DataTypes.ROW(fields)))
    results = t_env.execute_sql("""
        SELECT text, prediction.star_rating, prediction.model_variant
        FROM (SELECT text, score_review(text, variant) AS prediction FROM texts)""").collect()
    with results:
        found = {text: (rating, variant) for text, rating, variant in results}
    assert found == {text: (rating_of(text), variant or "VariantA") for text, variant in rows}


def test_every_sink_shares_one_call_of_each_function(tmp_path: Path) -> None:
    optimised = optimised_plan("review_scoring", tmp_path)
    assert optimised.count("parse_review(") == 1
    assert optimised.count("score_review(") == 1
    assert optimised.count("TableSourceScan") == 1
    assert optimised.count("Sink(") == 4
