"""The AWS services of the laptop, from moto, in one process.

Kinesis, Firehose, S3, CloudWatch, SNS and SQS are used.

Everything is kept in memory and gone when the process ends. Run as a module it serves until
SIGTERM: ``python -m deploy.local.emulator --port 5000``.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import threading
import urllib.request
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from deploy.local.process import Child

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from mypy_boto3_firehose import FirehoseClient
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sns import SNSClient
    from mypy_boto3_sqs import SQSClient

PROJECT_ROOT = Path(__file__).resolve().parents[2]

# Never this machine's own keys: nothing here may reach a real account.
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}

# The emulator's Firehose asks for a role; it never assumes it.
_ROLE_ARN = "arn:aws:iam::123456789012:role/local"


def local_environment(region: str) -> dict[str, str]:
    """Return the environment for programs that may reach the laptop's AWS and no other.

    Parameters
    ----------
    region
        An AWS region's name.

    Returns
    -------
    dict
        This process's environment without its AWS settings, with dummy credentials, and with
        loopback addresses exempt from any proxy.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    loopback = "127.0.0.1,localhost"
    return kept | {
        **CREDENTIALS,
        "AWS_REGION": region,
        "AWS_DEFAULT_REGION": region,
        "AWS_EC2_METADATA_DISABLED": "true",
        # Profiles of this machine's user would come before the dummy keys in some clients.
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        # The emulator speaks JSON only. The first name is read by the Java SDK's version 1,
        # the second by version 2.
        "AWS_CBOR_DISABLE": "true",
        "CBOR_ENABLED": "false",
        "NO_PROXY": loopback,
        "no_proxy": loopback,
    }


def emulator(port: int, log_path: Path, region: str) -> Child:
    """Return the emulator as a process yet to be started.

    Parameters
    ----------
    port
        Where it listens, on 127.0.0.1.
    log_path
        Its log: warnings and errors, not every request.
    region
        An AWS region's name.
    """
    return Child(
        "emulator",
        [sys.executable, "-m", "deploy.local.emulator", "--port", str(port)],
        log_path=log_path,
        env=local_environment(region),
        cwd=PROJECT_ROOT,
    )


def answers(url: str) -> bool:
    """Return whether a GET of `url` is answered with a status below 400 within 2 s.

    Raises
    ------
    OSError
        When nothing answers, or with a higher status.
    """
    with direct_opener().open(url, timeout=2) as response:
        return bool(response.status < 400)


def direct_opener() -> urllib.request.OpenerDirector:
    """Return an opener for loopback addresses: it passes by any proxy that is configured."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


def session(region: str) -> boto3.Session:
    """Return a boto3 session with the emulator's dummy credentials."""
    return boto3.Session(
        aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        region_name=region,
    )


# Without `proxies` botocore would take those of the environment.
CLIENT_CONFIG = Config(proxies={}, connect_timeout=5, read_timeout=30)


def create_resources(
    endpoint_url: str,
    region: str,
    *,
    streams: Mapping[str, int],
    bucket: str,
    delivery_streams: Mapping[str, str],
    topics: Collection[str] = (),
) -> None:
    """Create streams, bucket, delivery streams and topics, where they do not exist.

    Parameters
    ----------
    endpoint_url
        The emulator's address.
    region
        An AWS region's name.
    streams
        Number of shards, at least 1, by name of the Kinesis stream. A stream that exists keeps
        the shards it has.
    bucket
        The S3 bucket.
    delivery_streams
        Prefix of the objects in the bucket by name of the Firehose delivery stream.
    topics
        Names of SNS topics; each gets an SQS queue of its own name that keeps what is published.

    Examples
    --------
    ::

        create_resources(
            "http://127.0.0.1:5000", "us-east-1", streams={"reviews": 2},
            bucket="review-archive", delivery_streams={"reviews-raw": "raw/"},
            topics=["rating-alerts"],
        )
    """
    aws = session(region)
    kinesis: KinesisClient = aws.client("kinesis", endpoint_url=endpoint_url, config=CLIENT_CONFIG)
    firehose: FirehoseClient = aws.client(
        "firehose", endpoint_url=endpoint_url, config=CLIENT_CONFIG
    )
    s3: S3Client = aws.client("s3", endpoint_url=endpoint_url, config=CLIENT_CONFIG)

    for stream, shards in streams.items():
        with contextlib.suppress(kinesis.exceptions.ResourceInUseException):
            kinesis.create_stream(StreamName=stream, ShardCount=shards)
    for stream in streams:
        kinesis.get_waiter("stream_exists").wait(
            StreamName=stream, WaiterConfig={"Delay": 1, "MaxAttempts": 30}
        )
    try:
        s3.head_bucket(Bucket=bucket)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
            raise
        s3.create_bucket(Bucket=bucket)
    for delivery_stream, prefix in delivery_streams.items():
        with contextlib.suppress(firehose.exceptions.ResourceInUseException):
            firehose.create_delivery_stream(
                DeliveryStreamName=delivery_stream,
                DeliveryStreamType="DirectPut",
                ExtendedS3DestinationConfiguration={
                    "RoleARN": _ROLE_ARN,
                    "BucketARN": f"arn:aws:s3:::{bucket}",
                    "Prefix": prefix,
                },
            )
    sns: SNSClient = aws.client("sns", endpoint_url=endpoint_url, config=CLIENT_CONFIG)
    sqs: SQSClient = aws.client("sqs", endpoint_url=endpoint_url, config=CLIENT_CONFIG)
    for topic in topics:
        topic_arn = sns.create_topic(Name=topic)["TopicArn"]
        queue_url = sqs.create_queue(QueueName=topic)["QueueUrl"]
        queue_arn = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])[
            "Attributes"
        ]["QueueArn"]
        sns.subscribe(TopicArn=topic_arn, Protocol="sqs", Endpoint=queue_arn)


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local.emulator", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="port on 127.0.0.1")
    port: int = parser.parse_args().port
    # Two lines a request otherwise, hundreds of requests a second.
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    # Slow to import; clients of this module need them not.
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import run_simple

    app = one_at_a_time(DomainDispatcherApplication(create_backend_app))
    run_simple("127.0.0.1", port, app, threaded=True, request_handler=MotoRequestHandler)


def one_at_a_time(app: WSGIApplication) -> WSGIApplication:
    """Return the application with its requests in turn.

    moto's streams are not safe for concurrency: of two records that arrive together one may take
    the other's sequence number and place.
    """
    turn = threading.Lock()

    def in_turn(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        with turn:
            return app(environ, start_response)

    return in_turn


if __name__ == "__main__":
    main()
