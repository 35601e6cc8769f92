"""The rating model: what the container calls, and the training."""

import csv
import gzip
import io
import json
import os
import pickle
import pickletools
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import joblib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from typer.testing import CliRunner

from deploy.model import inference
from deploy.model.data import Reviews, TrainingDataError, read_coarse, read_reviews
from deploy.model.evaluate import app as evaluate_app
from deploy.model.evaluate import cross_validate
from deploy.model.ordinal import Censored, fit_ordinal
from deploy.model.report import confusion, confusion_text, figures, write_atomically
from deploy.model.train import (
    ALL_VARIANTS,
    ORDINAL,
    VARIANTS,
    app,
    evaluate,
    train,
    train_and_save,
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
    train_and_save(*labelled_texts(400, seed=1), output, seed=7, variants=ALL_VARIANTS)
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


@pytest.mark.parametrize("content_type", ["text/plain", "", "jsonlines"])
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


@pytest.mark.parametrize("accept", [JSON_LINES, f"{JSON_LINES}; charset=utf-8", "*/*", ""])
def test_the_answer_is_json_lines(accept):
    body, content_type = inference.output_fn([3, 1], accept)
    assert [json.loads(line) for line in body.splitlines()] == [
        {"predicted_label": 3},
        {"predicted_label": 1},
    ]
    assert content_type == JSON_LINES


def test_another_answer_type_is_refused():
    with pytest.raises(inference.NotAcceptableError, match="text/plain") as caught:
        inference.output_fn([3], "text/plain")
    assert caught.value.status == 406


def as_csv(texts):
    body = io.StringIO()
    csv.writer(body).writerows([text] for text in texts)
    return body.getvalue()


def as_instances(texts):
    return json.dumps({"instances": [[text] for text in texts]}, ensure_ascii=False)


@pytest.mark.parametrize(
    ("content_type", "write"), [("text/csv", as_csv), ("application/json", as_instances)]
)
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_texts_come_out_of_the_other_forms_as_they_went_in(content_type, write, texts):
    assert inference.input_fn(write(texts).encode(), content_type) == texts


def test_csv_may_be_bare_or_quoted_and_long():
    long = "a" * 300_000
    body = f'good, no\n{long}\n"two\nlines"\n""\nlast'.replace("good, no", '"good, no"')
    texts = inference.input_fn(body, "text/csv")
    assert texts == ["good, no", long, "two\nlines", "", "last"]


def test_an_instance_may_name_its_features():
    body = b'{"instances": [{"features": ["a"]}, ["b"]]}'
    assert inference.input_fn(body, "application/json; charset=utf-8") == ["a", "b"]


@pytest.mark.parametrize("row", ["", "a,b", '"a"b', '"open'])
def test_a_malformed_row_is_named(row):
    with pytest.raises(inference.RequestError, match=r"row 3 "):
        inference.input_fn(f"a\nb\n{row}\n", "text/csv")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "instances"),
        ("{}", "instances"),
        ('{"instances": {}}', "instances"),
        ('{"instances": [["a"], "b"]}', "instance 2 "),
        ('{"instances": [["a", "b"]]}', "instance 1 "),
        ('{"instances": [["a"], [1]]}', "instance 2 "),
    ],
)
def test_malformed_instances_are_named(body, message):
    with pytest.raises(inference.RequestError, match=message) as caught:
        inference.input_fn(body, "application/json")
    assert caught.value.status == 400


def test_the_other_forms_of_the_answer():
    assert inference.output_fn([3, 1], "text/csv") == ("3\n1\n", "text/csv")
    body, content_type = inference.output_fn([3, 1], "application/json")
    assert json.loads(body) == {"predictions": [{"predicted_label": 3}, {"predicted_label": 1}]}
    assert content_type == "application/json"
    assert json.loads(inference.output_fn([], "application/json")[0]) == {"predictions": []}


# What a rating is


class Distribution:
    """A model of some ratings with the same probabilities for every text."""

    classes_ = np.array([1, 2, 5])

    def predict(self, texts):
        return np.full(len(texts), 5)

    def predict_proba(self, texts):
        return np.tile([0.3, 0.3, 0.4], (len(texts), 1))


@pytest.mark.parametrize(("prediction", "label"), [("", 5), ("mode", 5), ("median", 2)])
def test_a_variable_says_which_rating_is_predicted(monkeypatch, prediction, label):
    monkeypatch.setenv("PREDICTION", prediction)
    assert inference.predict_fn(["a", "b"], Distribution()) == [label] * 2
    assert inference.predict_fn([], Distribution()) == []


def test_probabilities_stand_beside_the_mode(monkeypatch):
    monkeypatch.setenv("PREDICTION", "probabilities")
    answer = inference.predict_fn(["a", "b"], Distribution())
    row = {"predicted_label": 5, "probabilities": [0.3, 0.3, 0.0, 0.0, 0.4]}
    lines = inference.output_fn(answer, JSON_LINES)[0].splitlines()
    assert [json.loads(line) for line in lines] == [row, row]
    body = inference.output_fn(answer, "application/json")[0]
    assert json.loads(body) == {"predictions": [row, row]}
    assert inference.output_fn(answer, "text/csv")[0] == "5\n5\n"
    assert inference.output_fn(inference.predict_fn([], Distribution()), JSON_LINES)[0] == ""


def test_a_wrong_variable_stops_the_model_from_loading(monkeypatch, model_dir):
    monkeypatch.setenv("PREDICTION", "mean")
    with pytest.raises(ValueError, match=r"PREDICTION is 'mean'.*mode, median, prob"):
        inference.model_fn(str(model_dir / VARIANTS[0]))


class Zero(Distribution):
    classes_ = (0, 1, 2, 3, 4)


def test_a_model_of_other_ratings_is_not_loaded(monkeypatch, tmp_path):
    monkeypatch.delenv("PREDICTION", raising=False)
    joblib.dump(Zero(), tmp_path / "model.joblib")
    with pytest.raises(ValueError, match=r"ratings other than 1 to 5: \[0\]"):
        inference.model_fn(str(tmp_path))


@given(st.lists(st.integers(0, 9), min_size=5, max_size=5).filter(any))
def test_the_median_has_half_of_the_probability_on_either_side(weights):
    probabilities = np.array([weights]) / sum(weights)
    median = int(inference.medians(probabilities)[0])
    assert sum(weights[: median - 1]) * 2 <= sum(weights)
    assert sum(weights[median:]) * 2 <= sum(weights)
    assert weights[inference.modes(probabilities)[0] - 1] == max(weights)


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
    variants = [str(model_dir / variant) for variant in ALL_VARIANTS]
    result = subprocess.run(
        [sys.executable, "-I", "-c", script, str(tmp_path), *variants],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.stderr == ""
    assert result.stdout.splitlines() == ['{"predicted_label": 5}'] * len(ALL_VARIANTS)


# The model


@pytest.mark.parametrize("variant", ALL_VARIANTS)
def test_a_variant_beats_the_majority(variant):
    model = train(*labelled_texts(400, seed=1), variant=variant)
    texts, ratings = labelled_texts(200, seed=2)
    figures = evaluate(model, texts, ratings)
    majority = Counter(ratings).most_common(1)[0][1] / len(ratings)
    assert figures["accuracy"] > majority + 0.4
    assert figures["macro_f1"] > 0.6
    assert figures["mean_absolute_error"] < 0.6


@pytest.mark.parametrize("variant", ALL_VARIANTS)
@pytest.mark.parametrize(
    "text", ["", " ", "\x00", "\ud800 \udfff", "\U0001f600" * 50, "<br/>", "a" * 200_000]
)
def test_a_variant_rates_any_text(model_dir, variant, text):
    model = inference.model_fn(str(model_dir / variant))
    texts = inference.input_fn(request_body([text, "perfect"], ensure_ascii=True), JSON_LINES)
    labels = inference.predict_fn(texts, model)
    assert [type(label) for label in labels] == [int, int]
    assert set(labels) <= {1, 2, 3, 4, 5}


@pytest.mark.parametrize("variant", ALL_VARIANTS)
def test_a_rating_does_not_depend_on_the_rest_of_the_request(model_dir, variant):
    model = inference.model_fn(str(model_dir / variant))
    texts, _ = labelled_texts(64, seed=3)
    together = inference.predict_fn(texts, model)
    assert together == [inference.predict_fn([text], model)[0] for text in texts]


@pytest.mark.parametrize("variant", ALL_VARIANTS)
def test_the_same_input_gives_the_same_model(variant):
    data = labelled_texts(100, seed=1)
    first, second = (pickle.dumps(train(*data, variant=variant)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("variant", ALL_VARIANTS)
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


def test_coarse_ratings_teach_what_the_others_do_not():
    # The true ratings' texts lack the words that only the coarse ones have.
    texts, ratings = ["awful", "poor", "okay", "good", "superb"] * 6, [1, 2, 3, 4, 5] * 6
    coarse = Reviews(["dreadful", "middling", "splendid"] * 20, [1, 3, 5] * 20)
    model = train(texts, ratings, variant=ORDINAL, coarse=coarse)
    first, second, third = inference.rating_probabilities(
        model, ["dreadful", "middling", "splendid"]
    )
    assert first[:2].sum() > 0.6
    assert second[2] > 0.5
    assert third[3:].sum() > 0.6


def test_an_ordinal_fit_is_at_the_minimum():
    """With all degrees free alike and no coarse rating it is scikit-learn's own regression."""
    rng = np.random.default_rng(3)
    features = sparse.csr_matrix(rng.normal(size=(200, 6)))
    ratings = np.clip(np.round(3 + features.toarray()[:, 0] + rng.normal(size=200)), 1, 5)
    known = ratings.astype(int)
    ours = fit_ordinal(
        features,
        Censored(known, known, np.zeros(200, dtype=int)),
        penalty=1.0,
        degree_scales=(1.0, 1.0, 1.0, 1.0),
        max_iterations=1000,
    )
    theirs = LogisticRegression(C=1.0, max_iter=1000, tol=1e-8).fit(features, known)
    difference = ours.predict_proba(features) - theirs.predict_proba(features)
    assert np.abs(difference).max() < 0.01


# The measure


def test_each_figure_is_of_the_prediction_that_suits_it():
    probabilities = np.array([[0.3, 0.3, 0, 0, 0.4], [0, 0, 0.2, 0.7, 0.1]])
    assert figures(probabilities, [5, 4])["accuracy"] == 1
    assert figures(probabilities, [5, 4])["mean_absolute_error"] == 1.5  # 2 for 5, 4 for 4
    assert confusion(probabilities, [5, 4])[4] == [0, 0, 0, 0, 1]


def test_cross_validation_never_judges_what_it_has_learnt_from(monkeypatch):
    texts = [f"text{row}" for row in range(40)]
    ratings = [row % 5 + 1 for row in range(40)]
    learnt = []

    class Model:
        classes_ = np.arange(1, 6)

        def __init__(self, known):
            self.known = set(known)

        def predict_proba(self, texts):
            assert not self.known & set(texts)
            return np.full((len(texts), 5), 0.2)

    def fake(texts, ratings, *, variant, coarse):
        learnt.append(len(texts))
        return Model(texts)

    monkeypatch.setattr("deploy.model.evaluate.train", fake)
    result = cross_validate(Reviews(texts, ratings), variant="any", folds=4, repeats=2, seed=1)
    assert learnt == [30] * 8
    assert sum(map(sum, result["confusion"])) == 80
    assert result["mean_absolute_error"] == pytest.approx(1.2)  # 3 for all


def test_the_evaluation_command_writes_its_report(tmp_path):
    data, output = tmp_path / "reviews.tsv", tmp_path / "report.json"
    data.write_text(four_columns(*labelled_texts(100, seed=1)))
    arguments = [str(data), "--folds", "2", "--repeats", "1", "--output", str(output)]
    result = CliRunner().invoke(evaluate_app, arguments)
    assert result.exit_code == 0, result.output
    report = json.loads(output.read_text())
    assert list(report["variants"]) == list(ALL_VARIANTS)
    assert all(row["texts_per_s"] > 0 for row in report["variants"].values())


# Real reviews


def real_reviews(name):
    path = Path(os.environ.get("REVIEWS_DIR", "../shared/data")) / name
    if not path.is_file():
        pytest.skip(f"no real reviews at {path}; REVIEWS_DIR names their directory")
    return path


def test_real_reviews_are_rated_as_well_as_the_documentation_says():
    reviews = read_reviews(real_reviews("reviews_amazon_stars.tsv"))
    coarse = read_coarse(real_reviews("reviews_digital_software.tsv"))
    result = cross_validate(reviews, variant=ORDINAL, folds=5, repeats=1, seed=1, coarse=coarse)
    assert result["accuracy"] >= 0.39
    assert result["mean_absolute_error"] <= 0.93


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


def test_a_file_without_a_header_and_json_lines_are_read(tmp_path):
    path = tmp_path / "reviews.tsv"
    path.write_text("R1\tBooks\t5\tgood\nR2\tBooks\t1\tbad\n")
    assert read_reviews(path) == (["good", "bad"], [5, 1])
    path = tmp_path / "reviews.jsonl"
    row = {"review_id": "R1", "product_category": "Books", "review_body": "a\tb", "star_rating": 2}
    path.write_text(json.dumps(row) + "\n" + json.dumps(row | {"review_body": None}) + "\n")
    assert read_reviews(path) == (["a\tb"], [2])


def test_coarse_ratings_are_checked(tmp_path):
    path = tmp_path / "coarse.tsv"
    path.write_text(four_columns(["a", "b", "c"], [1, 3, 5]))
    assert read_coarse(path) == (["a", "b", "c"], [1, 3, 5])
    path.write_text(four_columns(["a", "b", "c"], [1, 4, 5]))
    with pytest.raises(TrainingDataError, match="but it has 4"):
        read_coarse(path)


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


ROWS = four_columns(["good"] * 99, [5] * 99).encode()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.tsv", None, "no file of reviews"),
        ("directory.tsv", ..., "no file of reviews"),
        ("empty.tsv", b"", "holds no review"),
        ("other.tsv", b"review_id\tstar_rating\nR1\t5\n", "lacks product_category, review_body"),
        ("unrated.tsv", b"R1\tBooks\tgood\n", "star_rating"),
        ("header.tsv", ROWS.splitlines()[0], "holds no review"),
        ("cut.tsv.gz", gzip.compress(ROWS, mtime=0)[:-9], "damaged"),
    ],
)
def test_a_bad_file_is_explained(tmp_path, name, content, message):
    path = tmp_path / name
    if content is ...:
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(TrainingDataError) as caught:
        read_reviews(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


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
    names = ("model.joblib", "confusion.txt", "confusion.png")
    assert files == {"metrics.json"} | {f"{v}/{name}" for v in VARIANTS for name in names}
    summary = json.loads((tmp_path / "metrics.json").read_text())
    assert summary["variants"] == metrics
    assert (summary["training_rows"], summary["held_out_rows"], summary["seed"]) == (80, 20, 7)
    for row in metrics.values():
        assert set(row) == {"accuracy", "macro_f1", "mean_absolute_error"}
    for variant, counts in summary["confusion"].items():
        assert sum(map(sum, counts)) == 20
        right = sum(counts[rating][rating] for rating in range(5)) / 20
        assert right == pytest.approx(metrics[variant]["accuracy"])
        assert (tmp_path / variant / "confusion.txt").read_text() == confusion_text(counts)
        picture = (tmp_path / variant / "confusion.png").read_bytes()
        assert picture.startswith(b"\x89PNG\r\n")


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
    result = CliRunner().invoke(app, [str(data), "--output", str(output)])
    assert result.exit_code == 0, result.output
    for variant in ALL_VARIANTS:
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


def test_the_command_says_what_is_wrong(tmp_path):
    data = tmp_path / "reviews.tsv"
    data.write_text("no rating\n")
    result = CliRunner().invoke(app, [str(data), "--output", str(tmp_path / "model")])
    assert result.exit_code == 2
    assert result.stderr.startswith("train: ")
    assert "none of the first 100 rows is a review" in result.stderr
    assert "Traceback" not in result.stderr
    assert "star_rating" in result.stderr
    assert not (tmp_path / "model").exists()


def test_the_command_says_where_it_cannot_write(tmp_path):
    data = tmp_path / "reviews.tsv"
    data.write_text(four_columns(*labelled_texts(100, seed=1)))
    result = CliRunner().invoke(app, [str(data), "--output", str(data)])
    assert result.exit_code == 2
    assert result.stderr.startswith("train: ")
    assert len(result.stderr.splitlines()) == 1


def _lines_of(texts: list[str]) -> str:
    return "\n".join(json.dumps({"features": [text]}, ensure_ascii=False) for text in texts)


PIECE = st.sampled_from(
    [
        '{"features": ["a"]}',
        '{"features": [',
        '"b"]}',
        "{",
        "}",
        "\n",
        ",",
        '"',
        "[",
        "]",
        "{} ",
        "x",
    ]
)


@given(st.lists(PIECE, max_size=12).map("".join) | st.lists(st.text()).map(_lines_of))
def test_lines_read_in_one_go_are_those_read_one_by_one(body: str) -> None:
    def one_by_one() -> list[str] | str:
        lines = body.removesuffix("\n").split("\n")
        try:
            return [inference._text(line, number) for number, line in enumerate(lines, start=1)]
        except inference.RequestError as error:
            return str(error)

    def at_once() -> list[str] | str:
        try:
            return inference._of_json_lines(body)
        except inference.RequestError as error:
            return str(error)

    assert at_once() == one_by_one()
