"""Training where the data are: a SageMaker job with the libraries of the endpoint's container.

That container itself has Python 3.9, which the training code is not written for. So the job runs in
a container of Python 3.11 and installs the endpoint's versions of the libraries there, as
`make container-model` does on this machine.
"""

from __future__ import annotations

import io
import logging
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.aws import artifacts
from deploy.aws.errors import DeployError
from deploy.aws.session import Aws, Say
from deploy.aws.stack import StackState

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ENTRY = "container_entry.py"
# For its Python alone.
_FRAMEWORK_VERSION, _PYTHON_VERSION = "2.3", "py311"
_REQUIREMENTS = "deploy/model/container-requirements.txt"
# What the entry script imports of the project.
_SOURCES = (
    *("deploy/__init__.py", "deploy/tables.py"),
    *("deploy/model/__init__.py", "deploy/model/data.py", "deploy/model/inference.py"),
    *("deploy/model/ordinal.py", "deploy/model/report.py", "deploy/model/train.py"),
    *("deploy/local/__init__.py", "deploy/local/file_options.py", "deploy/local/generator.py"),
    *("deploy/local/records.py", "deploy/local/replay.py", "deploy/local/texts.py"),
    *("deploy/local/files/__init__.py", "deploy/local/files/compression.py"),
    *("deploy/local/files/layouts.py", "deploy/local/files/reviews.py"),
    *("deploy/local/files/rows.py", "deploy/local/files/shape.py"),
    *("udfs/__init__.py", "udfs/core/__init__.py", "udfs/core/characters.py"),
    *("udfs/core/event_times.py", "udfs/core/json_sequences.py", "udfs/core/keys.py"),
    *("udfs/core/lookalikes.py", "udfs/core/parsing.py"),
)
_DATA_KEY = "training/data"


def train_on_sagemaker(
    aws: Aws,
    state: StackState,
    data: Path,
    say: Say,
    *,
    instance_type: str,
    columns: str | None = None,
    category: str | None = None,
    output: Path = artifacts.MODEL_DIR,
) -> None:
    """Train all variants in a SageMaker job and fetch them.

    Parameters
    ----------
    aws, state, say
        Where, the stack's state, and whom to tell.
    data
        Reviews with their ratings, as `deploy.model.train` reads them.
    instance_type
        Of the training job.
    columns, category
        Of the data, as of `deploy.local.file_options`.
    output
        Directory for the models: one of its own for each variant.

    Raises
    ------
    DeployError
        The job fails.
    """
    logging.getLogger("sagemaker.config").setLevel(logging.WARNING)
    # Slow to import; most commands do without.
    from sagemaker import Session
    from sagemaker.exceptions import UnexpectedStatusException
    from sagemaker.pytorch import PyTorch
    from sagemaker.s3 import S3Uploader

    bucket, key_arn = state.outputs["BucketName"], state.outputs["KeyArn"]
    given = {"columns": columns, "category": category}
    hyperparameters = {name: value for name, value in given.items() if value is not None}
    if aws.is_dry:
        _show_calls(aws, state, data, instance_type, hyperparameters)
        return
    session = Session(
        boto_session=aws.session, sagemaker_client=aws.client("sagemaker"), default_bucket=bucket
    )
    say(f"uploading {data.name} to s3://{bucket}/{_DATA_KEY}")
    training = S3Uploader.upload(
        str(data), f"s3://{bucket}/{_DATA_KEY}", kms_key=key_arn, sagemaker_session=session
    )
    with tempfile.TemporaryDirectory() as directory:
        estimator = PyTorch(
            entry_point=ENTRY,
            source_dir=str(stage(Path(directory))),
            framework_version=_FRAMEWORK_VERSION,
            py_version=_PYTHON_VERSION,
            role=state.outputs["ModelRoleArn"],
            instance_type=instance_type,
            instance_count=1,
            hyperparameters=hyperparameters,
            output_path=f"s3://{bucket}/training",
            code_location=f"s3://{bucket}/training/code",
            output_kms_key=key_arn,
            volume_kms_key=key_arn,
            base_job_name="review-model",
            disable_profiler=True,
            sagemaker_session=session,
        )
        say(f"training on {instance_type}; starting it takes a few minutes")
        try:
            estimator.fit({"training": training}, wait=True, logs="All")
        except UnexpectedStatusException as error:
            raise DeployError(
                f"the training job failed: {error}",
                state=["the endpoint serves the models that it served before"],
                steps=["its log stands above, and in the log group /aws/sagemaker/TrainingJobs"],
            ) from error
    fetch(aws, bucket, estimator.model_data.removeprefix(f"s3://{bucket}/"), output)
    say(f"models are in {output}; put them in place: python -m deploy endpoint")


def _show_calls(
    aws: Aws,
    state: StackState,
    data: Path,
    instance_type: str,
    hyperparameters: dict[str, str],
) -> None:
    """Make the calls that the SDK makes, as far as they say what would be done."""
    from sagemaker import image_uris

    bucket, key_arn = state.outputs["BucketName"], state.outputs["KeyArn"]
    s3: S3Client = aws.client("s3")
    s3.put_object(Bucket=bucket, Key=f"{_DATA_KEY}/{data.name}", Body=b"")
    image = image_uris.retrieve(
        "pytorch",
        aws.region,
        version=_FRAMEWORK_VERSION,
        py_version=_PYTHON_VERSION,
        instance_type=instance_type,
        image_scope="training",
    )
    source: Any = {"S3DataType": "S3Prefix", "S3Uri": f"s3://{bucket}/{_DATA_KEY}/{data.name}"}
    aws.client("sagemaker").create_training_job(
        TrainingJobName="review-model-TIME",
        AlgorithmSpecification={"TrainingImage": image, "TrainingInputMode": "File"},
        RoleArn=state.outputs["ModelRoleArn"],
        HyperParameters=hyperparameters,
        InputDataConfig=[{"ChannelName": "training", "DataSource": {"S3DataSource": source}}],
        OutputDataConfig={"S3OutputPath": f"s3://{bucket}/training", "KmsKeyId": key_arn},
        ResourceConfig={
            "InstanceType": instance_type,
            "InstanceCount": 1,
            "VolumeSizeInGB": 30,
            "VolumeKmsKeyId": key_arn,
        },
        StoppingCondition={"MaxRuntimeInSeconds": 86_400},
    )
    s3.get_object(Bucket=bucket, Key="training/review-model-TIME/output/model.tar.gz")


def stage(directory: Path) -> Path:
    """Lay out what the container runs: the entry script and the modules that it imports."""
    for source in _SOURCES:
        target = directory / source
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(artifacts.PROJECT_ROOT / source, target)
    shutil.copy(artifacts.PROJECT_ROOT / "deploy" / "model" / ENTRY, directory)
    shutil.copy(artifacts.PROJECT_ROOT / _REQUIREMENTS, directory / "requirements.txt")
    return directory


def fetch(aws: Aws, bucket: str, key: str, output: Path) -> None:
    """Unpack a training job's models into a directory.

    Raises
    ------
    DeployError
        The archive lacks a variant.
    """
    client: S3Client = aws.client("s3")
    data: Any = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        names = set(archive.getnames())
        missing = [
            variant for variant in artifacts.VARIANTS if f"{variant}/model.joblib" not in names
        ]
        if missing:
            raise DeployError(f"s3://{bucket}/{key} lacks the models {', '.join(missing)}")
        archive.extractall(output, filter="data")
