"""The rating model: what the container calls, and the training."""

import gzip
import json
import pickle
import pickletools
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from deploy.model import inference
from deploy.model.train import (
    VARIANTS,
    TrainingDataError,
    app,
    evaluate,
    read_reviews,
    train,
    train_and_save,
    write_atomically,
)

JSON_LINES = "application/jsonlines"

WORDS = {
    1: ["awful", "broken", "refund", "useless", "worst"],
    2: ["poor", "disappointing", "weak", "flawed", "returning"],
    3: ["okay", "average", "acceptable", "middling", "fine"],
    4: ["good", "solid", "useful", "pleasant", "recommend"],
    5: ["excellent", "perfect", "superb", "flawless", "love"],
}
FILLER = ["the", "item", "it", "was", "for", "my", "desk", "and", "arrived", "today"]


def labelled_texts(count: int, seed: int) -> tuple[list[str], list[int]]:
    """Texts whose words tell the rating, but for a tenth that are of another rating."""
    rng = random.Random(seed)
    texts, ratings = [], []
    for row in range(count):
        rating = row % 5 + 1
        source = rng.randint(1, 5) if rng.random() < 0.1 else rating
        words = rng.choices(FILLER, k=6) + rng.choices(WORDS[source], k=2)
        rng.shuffle(words)
        texts.append(" ".join(words))
        ratings.append(rating)
    return texts, ratings


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    output = tmp_path_factory.mktemp("model")
    train_and_save(*labelled_texts(400, seed=1), output, seed=7)
    return output


class EchoLength:
    """A model that rates a text by its length, and knows how often it was asked."""

    def __init__(self):
        self.calls = 0

    def predict(self, texts):
        self.calls += 1
        return [len(text) for text in texts]


def request_body(texts, *, ensure_ascii=False):
    return "\n".join(json.dumps({"features": [text]}, ensure_ascii=ensure_ascii) for text in texts)


# The handler


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]))),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_texts_come_out_of_a_request_as_they_went_in(
    texts, as_bytes, ends_with_newline, ascii_only
):
    body = request_body(texts, ensure_ascii=ascii_only)
    if texts and ends_with_newline:
        body += "\n"
    assert inference.input_fn(body.encode() if as_bytes else body, JSON_LINES) == texts


def test_line_separators_other_than_newline_are_part_of_a_text():
    text = "a\u2028b\u2029c\x85d"
    assert inference.input_fn(request_body([text, "e"]), JSON_LINES) == [text, "e"]


def test_lines_may_end_with_carriage_return_and_newline():
    body = b'{"features": ["a"]}\r\n{"features": ["b"]}\r\n'
    assert inference.input_fn(body, JSON_LINES) == ["a", "b"]


@pytest.mark.parametrize("content_type", ["Application/JSONLines", f"{JSON_LINES}; charset=utf-8"])
def test_the_content_type_is_read_as_http_says(content_type):
    assert inference.input_fn('{"features": ["a"]}', content_type) == ["a"]


@pytest.mark.parametrize("content_type", ["application/json", "text/csv", "", "jsonlines"])
def test_another_content_type_is_refused(content_type):
    with pytest.raises(inference.UnsupportedContentTypeError, match=JSON_LINES) as caught:
        inference.input_fn('{"features": ["a"]}', content_type)
    assert isinstance(caught.value, ValueError)
    assert caught.value.status == 415


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"{}",
        b'{"features": "text"}',
        b'{"features": []}',
        b'{"features": ["a", "b"]}',
        b'{"features": [1]}',
        b'{"features": [null]}',
        b'{"features": ["a"]} {"features": ["b"]}',
        b'{"features": ["\xff"]}',
        b"[" * 100_000,
        b'{"features": ' + b"9" * 5000 + b"}",
    ],
)
def test_a_malformed_line_is_named(line):
    good = b'{"features": ["a"]}'
    with pytest.raises(inference.RequestError, match=r"line 3 ") as caught:
        inference.input_fn(b"\n".join([good, good, line, good]), JSON_LINES)
    assert caught.value.status == 400


def test_one_call_of_the_model_answers_a_request():
    model = EchoLength()
    assert inference.predict_fn(["a", "bbb", "cc"], model) == [1, 3, 2]
    assert model.calls == 1


def test_no_texts_give_no_answers():
    model = EchoLength()
    assert inference.predict_fn(inference.input_fn(b"", JSON_LINES), model) == []
    assert inference.output_fn([], JSON_LINES) == ("", JSON_LINES)


@pytest.mark.parametrize("accept", [JSON_LINES, "*/*", "application/json", ""])
def test_the_answer_is_json_lines(accept):
    body, content_type = inference.output_fn([3, 1], accept)
    assert [json.loads(line) for line in body.splitlines()] == [
        {"predicted_label": 3},
        {"predicted_label": 1},
    ]
    assert content_type == JSON_LINES


def test_another_answer_type_is_refused():
    with pytest.raises(inference.NotAcceptableError, match="text/csv") as caught:
        inference.output_fn([3], "text/csv")
    assert caught.value.status == 406


def test_the_handler_works_without_the_project(model_dir, tmp_path):
    """The container ships the file alone; the model must unpickle there too."""
    handler = tmp_path / "inference.py"
    handler.write_bytes(Path(inference.__file__).read_bytes())
    # -I: neither the working directory nor PYTHONPATH; an installed project is hidden as well.
    script = """
import sys
sys.modules["deploy"] = None
sys.path.insert(0, sys.argv[1])
import inference
for model_dir in sys.argv[2:]:
    texts = inference.input_fn(b'{"features": ["superb, love it"]}', "application/jsonlines")
    labels = inference.predict_fn(texts, inference.model_fn(model_dir))
    print(inference.output_fn(labels, "application/jsonlines")[0], end="")
"""
    variants = [str(model_dir / variant) for variant in VARIANTS]
    result = subprocess.run(
        [sys.executable, "-I", "-c", script, str(tmp_path), *variants],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.stderr == ""
    assert result.stdout.splitlines() == ['{"predicted_label": 5}'] * len(VARIANTS)


# The model


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_beats_the_majority(variant):
    model = train(*labelled_texts(400, seed=1), variant=variant)
    texts, ratings = labelled_texts(200, seed=2)
    figures = evaluate(model, texts, ratings)
    majority = Counter(ratings).most_common(1)[0][1] / len(ratings)
    assert figures["accuracy"] > majority + 0.4
    assert figures["macro_f1"] > 0.6
    assert figures["mean_absolute_error"] < 0.6


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    "text", ["", " ", "\x00", "\ud800 \udfff", "\U0001f600" * 50, "<br/>", "a" * 200_000]
)
def test_a_variant_rates_any_text(model_dir, variant, text):
    model = inference.model_fn(str(model_dir / variant))
    texts = inference.input_fn(request_body([text, "perfect"], ensure_ascii=True), JSON_LINES)
    labels = inference.predict_fn(texts, model)
    assert [type(label) for label in labels] == [int, int]
    assert set(labels) <= {1, 2, 3, 4, 5}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_rating_does_not_depend_on_the_rest_of_the_request(model_dir, variant):
    model = inference.model_fn(str(model_dir / variant))
    texts, _ = labelled_texts(64, seed=3)
    together = inference.predict_fn(texts, model)
    assert together == [inference.predict_fn([text], model)[0] for text in texts]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_same_input_gives_the_same_model(variant):
    data = labelled_texts(100, seed=1)
    first, second = (pickle.dumps(train(*data, variant=variant)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_model_holds_library_classes_only(model_dir, variant):
    model = inference.model_fn(str(model_dir / variant))
    # In protocol 2 each class is spelt out as "module name".
    packages = {
        str(argument).split(".")[0].split(" ")[0]
        for opcode, argument, _ in pickletools.genops(pickle.dumps(model, protocol=2))
        if opcode.name == "GLOBAL"
    }
    assert "sklearn" in packages
    assert packages <= {"sklearn", "numpy", "scipy", "_codecs", "copy_reg", "__builtin__"}


def test_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="tfidf-logistic"):
        train(["good", "bad"], [5, 1], variant="bert")


# Files


def four_columns(texts, ratings):
    lines = ["review_id\tproduct_category\tstar_rating\treview_body"]
    rows = enumerate(zip(texts, ratings, strict=True))
    lines += [f"R{row}\tBooks\t{rating}\t{text}" for row, (text, rating) in rows]
    return "\n".join(lines) + "\n"


def fifteen_columns(texts, ratings):
    names = (
        "marketplace,customer_id,review_id,product_id,product_parent,product_title,"
        "product_category,star_rating,helpful_votes,total_votes,vine,verified_purchase,"
        "review_headline,review_body,review_date"
    )
    lines = [names.replace(",", "\t")]
    lines += [
        f"US\t1\tR{row}\tP\t2\tA title\tBooks\t{rating}\t0\t3\tN\tY\tA headline\t{text}\t2015-08-31"
        for row, (text, rating) in enumerate(zip(texts, ratings, strict=True))
    ]
    return "\r\n".join(lines) + "\r\n"


@pytest.mark.parametrize("shape", [four_columns, fifteen_columns])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_both_shapes_of_file_are_read(tmp_path, shape, bom):
    texts, ratings = ['says "hi', "naïve \u2028 one", "c\rd"], [1, 5, 3]
    path = tmp_path / "reviews.tsv"
    path.write_bytes((bom + shape(texts, ratings)).encode())
    assert read_reviews(path, max_rows=10) == (texts, ratings)


def test_a_compressed_file_is_read(tmp_path):
    path = tmp_path / "reviews.tsv.gz"
    path.write_bytes(gzip.compress(four_columns(["a", "b"], [1, 2]).encode()))
    assert read_reviews(path, max_rows=10) == (["a", "b"], [1, 2])


def test_reading_stops_at_the_bound(tmp_path):
    path = tmp_path / "reviews.tsv"
    path.write_text(four_columns(["a", "b", "c"], [1, 2, 3]))
    assert read_reviews(path, max_rows=2) == (["a", "b"], [1, 2])


def test_rows_that_are_no_rated_reviews_are_passed_over(tmp_path):
    path = tmp_path / "reviews.tsv"
    path.write_text(
        four_columns(["good"], [4])
        + "R1\tBooks\t0\ttext\nR2\tBooks\t\ttext\nR3\tBooks\t5\t \nR4\tBooks\t5\nR5\tB\t5\ta\tb\n\n"
        + "R6\tBooks\t²\ttext\nR7\tBooks\t12\ttext\n"
    )
    assert read_reviews(path, max_rows=10) == (["good"], [4])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.tsv", None, "cannot be read: No such file"),
        ("empty.tsv", b"", "must name the columns"),
        ("headless.tsv", b"R1\tBooks\t5\tgood\n", "must name the columns"),
        ("rowless.tsv", b"star_rating\treview_body\n", "no row"),
        ("plain.tsv.gz", b"star_rating\treview_body\n1\ta\n", "cannot be read"),
        ("cut.tsv.gz", gzip.compress(b"star_rating\treview_body\n" * 99)[:-9], "cannot be read"),
    ],
)
def test_a_bad_file_is_explained_in_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TrainingDataError) as caught:
        read_reviews(path, max_rows=10)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("texts", "ratings", "message"),
    [
        (["good"] * 20, [5] * 20, "two different ratings"),
        (["good"] * 24, [5] * 20 + [1] * 4, "only 4 of the reviews have 1 stars"),
        (["!"] * 20, [5, 1] * 10, "empty vocabulary"),
    ],
)
def test_data_that_cannot_train_is_explained(tmp_path, texts, ratings, message):
    with pytest.raises(TrainingDataError, match=message):
        train_and_save(texts, ratings, tmp_path, seed=7)
    assert list(tmp_path.iterdir()) == []


def test_training_writes_models_and_metrics(tmp_path):
    metrics = train_and_save(*labelled_texts(100, seed=1), tmp_path, seed=7)
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"metrics.json", *(f"{variant}/model.joblib" for variant in VARIANTS)}
    summary = json.loads((tmp_path / "metrics.json").read_text())
    assert summary["variants"] == metrics
    assert (summary["training_rows"], summary["held_out_rows"], summary["seed"]) == (80, 20, 7)
    for figures in metrics.values():
        assert set(figures) == {"accuracy", "macro_f1", "mean_absolute_error"}


def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "model.joblib"
    write_atomically(path, lambda file: file.write(b"old"))

    def half(file):
        file.write(b"ne")
        assert path.read_bytes() == b"old"
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        write_atomically(path, half)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


# The command


def test_the_command_learns_from_a_file(tmp_path):
    data = tmp_path / "reviews.tsv"
    data.write_text(four_columns(*labelled_texts(100, seed=1)))
    output = tmp_path / "model"
    result = CliRunner().invoke(app, ["--data", str(data), "--output", str(output)])
    assert result.exit_code == 0, result.output
    for variant in VARIANTS:
        assert variant in result.stdout
        assert (output / variant / "model.joblib").is_file()


def test_the_command_learns_from_the_generator(tmp_path, monkeypatch):
    asked = []

    def generate(count, seed):
        asked.append((count, seed))
        return labelled_texts(count, seed)

    generator = ModuleType("deploy.local.generator")
    generator.labelled_texts = generate
    monkeypatch.setitem(sys.modules, "deploy.local.generator", generator)
    arguments = ["--output", str(tmp_path), "--rows", "60", "--seed", "3"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert asked == [(60, 3)]


def test_the_command_says_in_one_line_what_is_wrong(tmp_path):
    data = tmp_path / "reviews.tsv"
    data.write_text("no header\n")
    result = CliRunner().invoke(app, ["--data", str(data), "--output", str(tmp_path / "model")])
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert "star_rating" in result.stderr
    assert not (tmp_path / "model").exists()


def test_the_command_says_where_it_cannot_write(tmp_path):
    data = tmp_path / "reviews.tsv"
    data.write_text(four_columns(*labelled_texts(100, seed=1)))
    result = CliRunner().invoke(app, ["--data", str(data), "--output", str(data)])
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
