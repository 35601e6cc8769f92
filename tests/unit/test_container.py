"""The model under the libraries of SageMaker's scikit-learn container, in their own environment.

`make container-model` makes that environment; it is made here where it is missing. The container
has Python 3.9, this project 3.11: the libraries are the container's, the interpreter is not.
"""

import json
import os
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

from deploy.aws import artifacts
from deploy.aws.artifacts import model_archive
from deploy.aws.training import ENTRY, stage

REQUIREMENTS = Path("deploy/model/container-requirements.txt")
PYTHON = Path("build/container-venv/bin/python")

# As the container calls the handler: SageMaker Scikit-learn Container, serving.
SERVE = """
import json, sys, warnings
sys.path.insert(0, sys.argv[1] + "/code")
import inference, joblib, numpy, scipy, sklearn
warnings.simplefilter("error")  # as of pickles from another version
model = inference.model_fn(sys.argv[1])
body = b'{"features": ["I love it, perfect."]}\\n{"features": ["Terrible. It broke at once."]}'
texts = inference.input_fn(body, "application/jsonlines")
answer, content_type = inference.output_fn(
    inference.predict_fn(texts, model), "application/jsonlines"
)
versions = {module.__name__: module.__version__ for module in (joblib, numpy, scipy, sklearn)}
print(json.dumps({"answer": answer, "content_type": content_type, "versions": versions}))
"""


@pytest.fixture(scope="module")
def models() -> Path:
    subprocess.run(["make", "--no-print-directory", "container-model"], check=True)
    return artifacts.MODEL_DIR


@pytest.mark.parametrize("variant", artifacts.VARIANTS)
def test_the_container_serves_what_was_trained_for_it(
    models: Path, tmp_path: Path, variant: str
) -> None:
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(model_archive(models / variant / "model.joblib"))
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path / "model", filter="data")
    run = subprocess.run(
        [str(PYTHON.absolute()), "-c", SERVE, str(tmp_path / "model")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    served = json.loads(run.stdout)
    pinned = dict(
        re.findall(r"^([\w-]+)==(\S+)", REQUIREMENTS.read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert served["versions"] == {
        "joblib": pinned["joblib"],
        "numpy": pinned["numpy"],
        "scipy": pinned["scipy"],
        "sklearn": pinned["scikit-learn"],
    }
    ratings = [json.loads(line)["predicted_label"] for line in served["answer"].splitlines()]
    assert ratings[0] >= 4
    assert ratings[1] <= 2
    assert served["content_type"] == "application/jsonlines"


def test_the_training_job_finds_all_that_it_imports(models: Path, tmp_path: Path) -> None:
    source = stage(tmp_path / "source")
    assert (source / "requirements.txt").read_text() == REQUIREMENTS.read_text()
    channel, output = tmp_path / "channel", tmp_path / "model"
    channel.mkdir()
    words = ("awful", "poor", "fair", "good", "superb")
    rows = [
        f"R{number}\tGift_Card\t{rating}\tSuch a {word} thing.\n"
        for number in range(20)
        for rating, word in enumerate(words, start=1)
    ]
    (channel / "reviews.tsv").write_text("".join(rows))
    # As SageMaker's training toolkit runs it, and without the project on the path.
    run = subprocess.run(
        [str(PYTHON.absolute()), ENTRY],
        cwd=source,
        env={
            **{key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
            "SM_CHANNEL_TRAINING": str(channel),
            "SM_MODEL_DIR": str(output),
        },
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert "100 reviews of reviews.tsv" in run.stdout
    for variant in artifacts.VARIANTS:
        assert (output / variant / "model.joblib").exists()
