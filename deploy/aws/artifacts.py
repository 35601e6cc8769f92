"""What goes into the bucket: the zip of the applications and the models, named by their content."""

from __future__ import annotations

import gzip
import hashlib
import io
import shlex
import subprocess
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from boto3.exceptions import S3UploadFailedError
from botocore.exceptions import BotoCoreError, ClientError

from deploy.aws.errors import DeployError
from deploy.aws.session import Aws, Say

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PROJECT_ROOT = Path(__file__).resolve().parents[2]
PACKAGE = PROJECT_ROOT / "build" / "package" / "streaming-review-ml.zip"
MODEL_DIR = PROJECT_ROOT / "build" / "container-model"
"""Where the models are that were trained with the libraries of SageMaker's container."""

VARIANTS: Mapping[str, str] = {
    "tfidf-logistic": "ModelTfidfLogistic",
    "hashing-bayes": "ModelHashingBayes",
}
"""The parameter of the template by the variant's name."""

NOT_BUILT = "to-be-built"

_DIGEST_CHARACTERS = 16
_MODEL_TIME = 0


@dataclass(frozen=True)
class Artifact:
    """A file that goes into the bucket.

    Attributes
    ----------
    path
        The file.
    key
        Where it goes: the same content has the same key.
    """

    path: Path
    key: str


def run_make(target: str, say: Say, *arguments: str) -> None:
    """Run a target of the Makefile; its output goes to the user.

    Raises
    ------
    DeployError
        It fails.
    """
    say(f"$ {shlex.join(['make', target, *arguments])}")
    line = ["make", "--no-print-directory", target, *arguments]
    if subprocess.run(line, cwd=PROJECT_ROOT).returncode:
        raise DeployError(
            f"make {target} failed; what it said stands above",
            state=["nothing was changed on AWS"],
            steps=[f"fix it, then try: make {target}"],
        )


def package(aws: Aws, say: Say, path: Path = PACKAGE) -> Artifact:
    """Build the zip of the applications; a dry run takes what is there, and builds nothing."""
    if aws.is_dry:
        say("$ make package")
    else:
        run_make("package", say)
    return Artifact(path, f"code/{_digest(path)}.zip")


def models(aws: Aws, say: Say, directory: Path = MODEL_DIR) -> dict[str, Artifact]:
    """Pack the models as the container wants them, after training them where they are missing.

    Returns
    -------
    dict
        `model.tar.gz` of each variant by its name.
    """
    trained = {variant: directory / variant / "model.joblib" for variant in VARIANTS}
    if not all(path.exists() for path in trained.values()):
        if aws.is_dry:
            say("$ make container-model")
        else:
            run_make("container-model", say)
    artifacts = {}
    for variant, path in trained.items():
        archive = path.parent / "model.tar.gz"
        if path.exists():
            archive.write_bytes(model_archive(path))
        artifacts[variant] = Artifact(archive, f"model/{variant}-{_digest(archive)}.tar.gz")
    return artifacts


def train_here(
    data: Path | None,
    say: Say,
    *,
    columns: str | None = None,
    category: str | None = None,
    is_dry: bool = False,
) -> None:
    """Train the models on this machine, on a file or on generated reviews.

    `columns` and `category` are those of `deploy.local.file_options`.
    """
    options = {"DATA": data and data.absolute(), "COLUMNS": columns, "CATEGORY": category}
    arguments = [f"{name}={value}" for name, value in options.items() if value is not None]
    if is_dry:
        say(f"$ {shlex.join(['make', 'container-model', *arguments])}")
        return
    run_make("container-model", say, *arguments)
    say(f"models are in {MODEL_DIR}; put them in place: python -m deploy endpoint")


def model_archive(model: Path) -> bytes:
    """Return `model.tar.gz`: the model, and in `code/` the handler that the container calls.

    The same files give the same bytes.
    """
    handler = PROJECT_ROOT / "deploy" / "model" / "inference.py"
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        for name, path in (("model.joblib", model), ("code/inference.py", handler)):
            entry = tarfile.TarInfo(name)
            data = path.read_bytes()
            entry.size, entry.mtime, entry.mode = len(data), _MODEL_TIME, 0o644
            archive.addfile(entry, io.BytesIO(data))
    return gzip.compress(plain.getvalue(), mtime=_MODEL_TIME)


def upload(
    aws: Aws,
    bucket: str,
    artifact: Artifact,
    say: Say,
    progress: Callable[[int], None] | None = None,
) -> bool:
    """Put an artifact into the bucket, unless it is there.

    Parameters
    ----------
    aws, bucket, artifact, say
        What, where to, and whom to tell.
    progress
        Called with the number of bytes that were sent since the last call.

    Returns
    -------
    bool
        Whether it was sent.

    Raises
    ------
    DeployError
        It could not be sent.
    """
    client: S3Client = aws.client("s3")
    if aws.is_dry:
        # One call stands for those of a multipart upload; the file may not be there yet.
        client.put_object(Bucket=bucket, Key=artifact.key, Body=b"")
        return True
    if _exists(client, bucket, artifact.key):
        say(f"s3://{bucket}/{artifact.key} is there already")
        return False
    size_mb = artifact.path.stat().st_size / 1e6
    say(f"uploading {artifact.path.name}, {size_mb:.1f} MB, to s3://{bucket}/{artifact.key}")
    try:
        client.upload_file(str(artifact.path), bucket, artifact.key, Callback=progress)
    except (S3UploadFailedError, ClientError, BotoCoreError) as error:
        raise DeployError(
            f"the upload of {artifact.path.name} failed: {error}",
            state=[
                f"s3://{bucket}/{artifact.key} does not exist; an upload that was begun is"
                " removed by the bucket after seven days",
                "applications and endpoint are as they were",
            ],
            steps=["try again: what is there already is not sent twice"],
        ) from error
    return True


def _exists(client: S3Client, bucket: str, key: str) -> bool:
    try:
        client.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
            return False
        raise
    return True


def _digest(path: Path) -> str:
    if not path.exists():
        return NOT_BUILT
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:_DIGEST_CHARACTERS]
