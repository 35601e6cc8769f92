import json
import sys
import xml.etree.ElementTree as ET
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udfs.core.anomaly_alerts import Explanation, Recent, alert_message
from udfs.core.publishing import ALERT_SUBJECT, Alert, SnsAlerts
from udfs.core.xml_text import REPLACEMENT, xml_text

EXPLANATION: Explanation = {
    "star_rating": {
        "recent_mean": 1.0,
        "usual_low": 3.0,
        "usual_high": 4.0,
        "direction": "low",
        "share": 1.0,
    }
}
NONCHARACTERS = [*range(0xFDD0, 0xFDF0)] + [
    plane << 16 | last for plane in range(17) for last in (0xFFFE, 0xFFFF)
]
any_text = st.text(st.characters()) | st.text(
    st.sampled_from(
        ["a", "😀", "\x00", "\x0b", "\x1f", "\ud800", "\udfff", *map(chr, NONCHARACTERS)]
    )
)


def assert_sendable(text: str) -> None:
    text.encode()
    read = ET.fromstring(f"<a>{escape(text)}</a>").text or ""
    # XML reads every line end as one.
    assert read == text.replace("\r\n", "\n").replace("\r", "\n")
    assert not any(ord(character) in NONCHARACTERS for character in text)


@given(any_text)
def test_every_text_can_be_sent(text: str) -> None:
    sent = xml_text(text)
    assert_sendable(sent)
    assert len(sent) == len(text)
    assert xml_text(sent) == sent


@given(st.text(st.characters(exclude_categories=["Cc", "Cs", "Cn"])))
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert xml_text(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "Café",
        "電子書\r\n\t",
        "👩‍👩‍👧‍👦 ❤️",
        "می‌خواهم",
        "e\u0301",
        "\U0010fffd",
        "a\u0085b",
        REPLACEMENT,
    ],
)
def test_text_of_all_kinds_stays_as_it_is(text: str) -> None:
    assert xml_text(text) == text


def test_only_what_xml_forbids_and_noncharacters_are_replaced() -> None:
    replaced = {code for code in range(sys.maxunicode + 1) if xml_text(chr(code)) == REPLACEMENT}
    controls = {*range(0x20)} - {0x09, 0x0A, 0x0D}
    assert replaced - {ord(REPLACEMENT)} == {*range(0xD800, 0xE000), *NONCHARACTERS, *controls}


def strings(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for pair in value.items() for each in pair for text in strings(each)]
    if isinstance(value, list):
        return [text for each in value for text in strings(each)]
    return [value] if isinstance(value, str) else []


@given(any_text, any_text, any_text, st.integers(-(10**14), 10**15))
def test_every_text_of_an_alert_can_be_sent(
    key: str, category: str, excerpt: str, time_ms: int
) -> None:
    review = Recent(key, 1, 10, 0, time_ms, key, key, key, excerpt)
    message = alert_message(f"{category}-1", category, 1e-9, 0.9999, EXPLANATION, [review])
    assert_sendable(message)
    document = json.loads(message)
    for text in strings(document):
        assert_sendable(text)
    assert document["examples"][0]["excerpt"] == xml_text(excerpt)


@given(any_text, any_text)
def test_every_alert_can_be_sent(event_id: str, message: str) -> None:
    sent = []

    class Client:
        def publish_batch(self, **call: list[dict[str, object]]) -> dict[str, list[object]]:
            sent.extend(call["PublishBatchRequestEntries"])
            return {"Successful": []}

    destination = SnsAlerts(Client(), "arn")  # type: ignore[arg-type]
    alert = Alert(event_id, message)
    destination.send([alert])
    (entry,) = sent
    attribute = entry["MessageAttributes"]["event_id"]  # type: ignore[index]
    texts = [entry["Subject"], entry["Message"], "event_id", *attribute.values()]
    for text in texts:
        assert_sendable(text)  # type: ignore[arg-type]
    assert destination.size(alert) == sum(len(text.encode()) for text in texts)  # type: ignore[attr-defined]


def test_sns_takes_the_subject() -> None:
    assert len(ALERT_SUBJECT) < 100
    assert ALERT_SUBJECT.isascii()
    assert ALERT_SUBJECT.isprintable()
    assert ALERT_SUBJECT[0].isalnum()
