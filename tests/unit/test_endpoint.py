"""The local endpoint, asked by boto3 as the service is."""

import json
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from typer.testing import CliRunner

from deploy.local.endpoint import (
    ModelLoadError,
    cli,
    create_app,
    load_models,
)
from deploy.model.train import train_and_save
from tests.endpoint_server import serving
from udfs.core.invocations import MAX_REQUEST_BYTES

JSON_LINES = "application/jsonlines"


class Constant:
    """A model that gives every text the same rating."""

    def __init__(self, rating):
        self.rating = rating

    def predict(self, texts):
        return [self.rating] * len(texts)


class Length:
    """A model that shows whether order is kept."""

    def predict(self, texts):
        return [len(text) for text in texts]


class Broken:
    def predict(self, texts):
        raise RuntimeError("out of order")


class Held:
    """A model that answers when it is told to."""

    def __init__(self):
        self.entered = threading.Event()
        self.release = threading.Event()

    def predict(self, texts):
        self.entered.set()
        assert self.release.wait(30)
        return [1] * len(texts)


def client_of(address):
    return boto3.client(
        "sagemaker-runtime",
        endpoint_url=address,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(retries={"total_max_attempts": 1}, read_timeout=30),
    )


def get(address, path):
    with urllib.request.urlopen(address + path, timeout=30) as response:
        return response.status, response.read()


def stats(address):
    return json.loads(get(address, "/stats")[1])


def lines(texts):
    return "\n".join(json.dumps({"features": [text]}) for text in texts).encode()


def ask(client, texts, **options):
    request = {
        "EndpointName": "reviews",
        "ContentType": JSON_LINES,
        "Accept": JSON_LINES,
        "Body": lines(texts),
        **options,
    }
    response = client.invoke_endpoint(**request)
    answer = response["Body"].read().splitlines()
    return [json.loads(line)["predicted_label"] for line in answer], response


def error_of(client, texts=("a",), **options):
    with pytest.raises(ClientError) as caught:
        ask(client, texts, **options)
    return caught.value.response


@pytest.fixture(scope="module")
def server():
    models = {"four": Constant(4), "length": Length(), "broken": Broken()}
    with serving(models) as address:
        yield address


@pytest.fixture(scope="module")
def client(server):
    return client_of(server)


def test_an_answer_for_each_record_in_order(client):
    labels, response = ask(client, ["aa", "a\u2028b", "a"], TargetVariant="length")
    assert labels == [2, 3, 1]
    assert response["InvokedProductionVariant"] == "length"
    assert response["ContentType"] == JSON_LINES


def test_a_request_without_accept_is_answered(client):
    request = {"EndpointName": "reviews", "ContentType": JSON_LINES, "Body": lines(["a"])}
    response = client.invoke_endpoint(**request, TargetVariant="four")
    # JSON: so the container answers a client that does not say what it wants.
    assert json.loads(response["Body"].read()) == {"predictions": [{"predicted_label": 4}]}
    assert response["ContentType"] == "application/json"


def test_an_empty_body_has_an_empty_answer(client):
    assert ask(client, [], TargetVariant="four")[0] == []


def test_the_target_variant_answers(client):
    assert [ask(client, ["text"], TargetVariant="four")[0] for _ in range(5)] == [[4]] * 5


def test_without_a_target_variant_each_gets_its_share_and_the_seed_decides():
    def chosen(seed):
        with serving({"a": Constant(1), "b": Constant(2)}, seed=seed) as address:
            client = client_of(address)
            responses = [ask(client, ["text"]) for _ in range(60)]
        for labels, response in responses:
            assert labels == [{"a": 1, "b": 2}[response["InvokedProductionVariant"]]]
        return [response["InvokedProductionVariant"] for _, response in responses]

    first = chosen(1)
    assert 15 < first.count("a") < 45
    assert chosen(1) == first
    assert chosen(2) != first


def test_an_unknown_endpoint(client):
    error = error_of(client, EndpointName="rebiews")
    assert error["Error"]["Code"] == "ValidationError"
    assert error["Error"]["Message"] == "Endpoint rebiews of account 123456789012 not found."
    assert error["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_an_unknown_variant(client):
    error = error_of(client, TargetVariant="five")
    assert error["Error"]["Code"] == "ValidationError"
    assert "Variant five" in error["Error"]["Message"]
    assert error["ResponseMetadata"]["HTTPStatusCode"] == 400


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        ({"ContentType": "text/plain"}, 415, "text/plain"),
        ({"Accept": "text/plain"}, 406, "text/plain"),
        ({"Body": lines(["a"]) + b"\n{"}, 400, "line 2 "),
        ({"TargetVariant": "broken"}, 500, "RuntimeError: out of order"),
    ],
)
def test_what_the_container_refuses_is_a_model_error(client, options, status, message):
    error = error_of(client, **{"TargetVariant": "four", **options})
    assert error["Error"]["Code"] == "ModelError"
    assert error["ResponseMetadata"]["HTTPStatusCode"] == 424
    assert error["OriginalStatusCode"] == status
    assert message in error["OriginalMessage"]
    assert message in error["Error"]["Message"]
    assert error["LogStreamArn"].startswith("arn:aws:logs:")


def test_errors_are_the_exceptions_of_the_service_model(client):
    with pytest.raises(client.exceptions.ModelError):
        ask(client, ["a"], TargetVariant="broken")


def test_a_long_message_is_cut_to_what_the_service_allows():
    class Verbose:
        def predict(self, texts):
            raise RuntimeError("x" * 100_000)

    with serving({"verbose": Verbose()}) as address:
        error = error_of(client_of(address))
    assert len(error["Error"]["Message"]) <= 2048


def body_of(size):
    head, tail = b'{"features": ["', b'"]}'
    return head + b"a" * (size - len(head) - len(tail)) + tail


def test_the_largest_body_is_answered(client):
    assert ask(client, [], Body=body_of(MAX_REQUEST_BYTES), TargetVariant="four")[0] == [4]


@pytest.mark.parametrize("excess", [1, 10_000_000])
def test_a_larger_body_is_refused(client, excess):
    error = error_of(client, Body=body_of(MAX_REQUEST_BYTES + excess))
    assert error["ResponseMetadata"]["HTTPStatusCode"] == 413
    assert "6291456" in error["Error"]["Message"]
    assert ask(client, ["a"], TargetVariant="four")[0] == [4]


def test_counts():
    with serving({"a": Constant(1), "broken": Broken()}) as address:
        client = client_of(address)
        assert stats(address) == {
            "requests": 0,
            "records": 0,
            "by_variant": {"a": 0, "broken": 0},
            "by_variant_requests": {"a": 0, "broken": 0},
            "errors": 0,
            "served": 0,
            "most_served": 0,
            "queued": 0,
            "faults": {},
        }
        ask(client, ["x"] * 7, TargetVariant="a", InferenceId="one")
        ask(client, ["x"] * 3, TargetVariant="a")
        error_of(client, ["x"] * 9, TargetVariant="broken")
        error_of(client, EndpointName="other")
        assert stats(address) == {
            "requests": 4,
            "records": 10,
            "by_variant": {"a": 10, "broken": 0},
            "by_variant_requests": {"a": 2, "broken": 1},
            "errors": 2,
            "served": 0,
            "most_served": 1,
            "queued": 0,
            "faults": {},
        }


def test_an_error_is_logged_in_one_line_with_its_inference_id(caplog):
    with serving({"a": Constant(1)}) as address:
        client = client_of(address)
        ask(client, ["x"], InferenceId="fine")
        error_of(client, InferenceId="call-1", ContentType="text/plain")
    logged = [record.getMessage() for record in caplog.records if record.name == "endpoint"]
    assert len(logged) == 1
    assert "ModelError" in logged[0]
    assert "call-1" in logged[0]


def test_the_server_answers_while_a_model_works():
    held = Held()
    with serving({"held": held}) as address:
        asking = threading.Thread(target=ask, args=(client_of(address), ["a"]))
        asking.start()
        try:
            assert held.entered.wait(30)
            assert get(address, "/ping")[0] == 200
            assert stats(address)["records"] == 0
        finally:
            held.release.set()
            asking.join(30)
        assert stats(address)["records"] == 1


def test_an_endpoint_needs_a_variant():
    with pytest.raises(ValueError, match="variant"):
        create_app("reviews", {})


# Models and the command


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    output = tmp_path_factory.mktemp("model")
    train_and_save(["awful thing", "superb thing"] * 20, [1, 5] * 20, output, seed=7)
    return output


def test_variants_are_the_directories_with_a_model(model_dir):
    assert list(load_models(model_dir)) == ["hashing-bayes", "tfidf-logistic"]


def test_a_model_that_is_being_written_is_no_variant(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".model.joblib.123").write_bytes(b"half")
    with pytest.raises(ModelLoadError, match=str(tmp_path)):
        load_models(tmp_path)


def test_a_damaged_model_is_named(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "model.joblib").write_bytes(b"half")
    with pytest.raises(ModelLoadError, match=r"a/model\.joblib"):
        load_models(tmp_path)


def test_the_command_serves_until_it_is_told_to_stop(model_dir):
    command = [sys.executable, "-m", "deploy.local.endpoint", "--port", "0"]
    with subprocess.Popen(
        [*command, "--model-dir", str(model_dir)],
        cwd=Path(__file__).parents[2],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert "hashing-bayes, tfidf-logistic" in process.stderr.readline()
            address = process.stderr.readline().split()[-1]
            assert address.startswith("http://127.0.0.1:")
            assert get(address, "/ping")[0] == 200
            client = client_of(address)
            for variant in ("hashing-bayes", "tfidf-logistic"):
                labels, _ = ask(client, ["superb", "awful"], TargetVariant=variant)
                assert labels == [5, 1]
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
            assert process.stderr.read().splitlines()[-1].endswith("stopped")
        finally:
            process.kill()


def test_the_command_says_that_the_port_is_taken(model_dir):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(cli, ["--port", port, "--model-dir", str(model_dir)])
    assert result.exit_code == 2
    assert f"port {port}" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_command_names_every_problem_of_the_faults(model_dir):
    faults = json.dumps(
        {"latency": 1, "broken_variants": {"five": 500}, "removed_variants": ["six"]}
    )
    arguments = ["--port", "0", "--model-dir", str(model_dir), "--faults", faults]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    for part in ("--faults", "latency", "five", "six", "variants: hashing-bayes, tfidf-logistic"):
        assert part in result.stderr
    assert "Traceback" not in result.stderr


def test_the_command_says_that_there_is_no_model(tmp_path):
    result = CliRunner().invoke(cli, ["--port", "0", "--model-dir", str(tmp_path)])
    assert result.exit_code == 2
    assert "deploy.model.train" in result.stderr
