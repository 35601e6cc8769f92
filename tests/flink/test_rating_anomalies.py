"""The job's transform on an embedded Flink, its own statements, with files instead of streams."""

import base64
import json
import random
from collections import Counter
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pyflink.table import DataTypes
from pyflink.table.udf import ScalarFunction, udf

from flink_jobs import rating_anomalies, streams
from tests.conftest import embedded_environment
from tests.flink.tables import file_table, lines, optimised_plan
from udfs.core.anomaly_events import AnomalyTracker
from udfs.core.review_features import make_review_detector
from udfs.core.scored_records import ScoredReview
from udfs.dead_letters import digest_payload
from udfs.publishing import PUBLISH_RESULT

BASE_MS = 1_790_000_000_123  # 2026-09-21T14:13:20.123Z
THRESHOLD = 0.9999
WARM_UP = 60
CATEGORIES = ("Books", "Café", "Toys")
COUNT = 5_400
# Of each of these categories, so many reviews from there on are bad; Books has two such events.
BURSTS = {1_200: "Books", 2_100: "Café", 4_200: "Books"}
BURST_REVIEWS = 60


def reviews() -> list[ScoredReview]:
    """Three categories in turn, and bursts of one of them alone in between."""
    rng = random.Random(1)
    made: list[ScoredReview] = []

    def add(category: str, star_rating: int, body_length: int, is_burst: bool = False) -> None:
        number = len(made)
        made.append(
            ScoredReview(
                "reviews",
                "shardId-000000000000",
                str(number),
                f"R{number}",
                star_rating,
                category,
                body_length,
                BASE_MS + number * 5,
                # A burst's bodies are near duplicates, those of others are not.
                (1 << rng.randrange(8)) if is_burst else rng.getrandbits(63),
                f"Text {number}",
            )
        )

    for number in range(COUNT):
        for _ in range(BURST_REVIEWS if number in BURSTS else 0):
            add(BURSTS[number], 1, rng.randint(350, 700), True)
        rating = rng.choices((1, 2, 3, 4, 5), (17, 8, 10, 18, 47))[0]
        add(CATEGORIES[number % 3], rating, round(rng.lognormvariate(4.8, 0.7)))
    return made


class RecordAlerts(ScalarFunction):  # type: ignore[misc]  # PyFlink is untyped
    """Writes down what is to be published; does not take alerts of `Café`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def is_deterministic(self) -> bool:
        return False

    def eval(self, event_id: pd.Series, message: pd.Series) -> pd.DataFrame:
        rows: list[tuple[Any, ...]] = []
        with (self._directory / "alerts.jsonl").open("a", encoding="utf-8") as file:
            for key, text in zip(event_id, message, strict=True):
                if text is not None:
                    file.write(json.dumps([key, text]) + "\n")
                refused = text is not None and key.startswith("Café")
                rows.append(("denied", "no", 3) if refused else (None, None, None))
        return pd.DataFrame(rows, columns=PUBLISH_RESULT.field_names(), dtype=object)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the job over `reviews()`; return where its files are."""
    path = tmp_path_factory.mktemp("anomalies")
    t_env = embedded_environment()
    t_env.create_temporary_system_function("digest_payload", digest_payload())
    t_env.create_temporary_system_function(
        "publish_alert",
        udf(
            RecordAlerts(path), result_type=PUBLISH_RESULT, func_type="pandas", deterministic=False
        ),
    )
    fields = [
        DataTypes.FIELD(name, data_type)
        for name, data_type in (
            ("source_stream", DataTypes.STRING()),
            ("source_shard", DataTypes.STRING()),
            ("source_sequence_number", DataTypes.STRING()),
            ("review_id", DataTypes.STRING()),
            ("star_rating", DataTypes.INT()),
            ("product_category", DataTypes.STRING()),
            ("body_length", DataTypes.INT()),
            ("event_time_ms", DataTypes.BIGINT()),
            ("simhash", DataTypes.BIGINT()),
            ("excerpt", DataTypes.STRING()),
            ("source_part", DataTypes.STRING()),
        )
    ]
    t_env.create_temporary_view(
        "unique_reviews",
        t_env.from_elements([astuple(review) for review in reviews()], DataTypes.ROW(fields)),
    )
    nothing = ", ".join(
        f"CAST(NULL AS {sql_type}) AS {name}" for name, sql_type in streams.DEAD_LETTER
    )
    t_env.execute_sql(
        f"CREATE TEMPORARY VIEW unreadable_rows AS SELECT {nothing} FROM unique_reviews WHERE FALSE"
    )
    for name, columns in (
        ("rating_anomalies", streams.RATING_ANOMALY),
        ("dead_letters", streams.DEAD_LETTER),
    ):
        t_env.execute_sql(file_table(name, columns, path / name, "json"))
    rating_anomalies.create_views(t_env, THRESHOLD, WARM_UP)
    rating_anomalies.inserts(t_env).execute().wait()
    return path


def alerts(outputs: Path) -> list[tuple[str, dict[str, Any]]]:
    text = (outputs / "alerts.jsonl").read_text(encoding="utf-8")
    return [(key, json.loads(message)) for key, message in map(json.loads, text.splitlines())]


def test_each_review_has_the_row_that_its_category_alone_gives(outputs: Path) -> None:
    trackers = {
        category: AnomalyTracker(make_review_detector(warm_up=WARM_UP), THRESHOLD)
        for category in CATEGORIES
    }
    rows = {row["source_sequence_number"]: row for row in lines(outputs / "rating_anomalies")}
    assert len(rows) == len(lines(outputs / "rating_anomalies")) == len(reviews())
    for review in reviews():
        row = rows[review.source_sequence_number]
        (judgement,) = trackers[review.product_category].track([review])
        assert list(row) == [name for name, _ in streams.RATING_ANOMALY]
        assert (row["source_stream"], row["source_shard"]) == ("reviews", "shardId-000000000000")
        assert row["review_id"] == review.review_id
        assert row["product_category"] == review.product_category
        assert row["anomaly_score"] == judgement.anomaly_score
        assert row["threshold"] == THRESHOLD
        assert row["is_anomaly"] is judgement.is_anomaly
        assert row["explanation"] == judgement.explanation
        assert row["event_id"] == judgement.event_id
    assert rows["0"]["event_time"] == "2026-09-21T14:13:20.123Z"
    assert any(row["is_anomaly"] for row in rows.values())


def test_each_event_is_alerted_once_by_its_first_review(outputs: Path) -> None:
    sent = alerts(outputs)
    assert Counter(key for key, _ in sent) == {"Books-1": 1, "Books-2": 1, "Café-1": 1}
    rows = lines(outputs / "rating_anomalies")
    for key, alert in sent:
        first = min(
            (row for row in rows if row["event_id"] == key),
            key=lambda row: int(row["source_sequence_number"]),
        )
        assert alert["event_id"] == key
        assert first["is_anomaly"] is True
        shared = (*(name for name, _ in streams.SOURCE_ID), "review_id", "product_category")
        for name in (*shared, "event_time", "anomaly_score", "threshold"):
            assert alert[name] == first[name], name
        assert alert["explanation"] == json.loads(first["explanation"])
        assert alert["records"]["last"]["review_id"] == alert["review_id"]
        assert all(each["excerpt"] == f"Text {each['review_id'][1:]}" for each in alert["examples"])


def test_an_alert_that_is_not_taken_is_dead_lettered_with_its_text(outputs: Path) -> None:
    (letter,) = lines(outputs / "dead_letters")
    (alert,) = [alert for key, alert in alerts(outputs) if key == "Café-1"]
    assert json.loads(base64.b64decode(letter["payload"])) == alert
    assert (letter["stage"], letter["reason"], letter["message"], letter["attempts"]) == (
        "publish",
        "denied",
        "no",
        3,
    )
    for name in (*(name for name, _ in streams.SOURCE_ID), "review_id"):
        assert letter[name] == alert[name], name


def test_detector_and_sinks_share_one_source_and_an_alert_goes_out_once(tmp_path: Path) -> None:
    plan = optimised_plan("rating_anomalies", tmp_path)
    # What the detector and the unreadable records come from; a scan would be a second reader.
    assert "default_database, scored_reviews" not in plan
    assert plan.count("publish_alert(") == 1
    assert plan.count("Sink(") == 2
