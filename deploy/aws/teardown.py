"""Taking everything down again, and the data only where that is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from deploy.aws.errors import DeployError
from deploy.aws.session import Aws, Say
from deploy.aws.stack import Stack, StackState

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

KEPT = ("AWS::S3::Bucket", "AWS::KMS::Key")
"""What outlives the stack, unless the data are to go too."""

_KEY_DAYS = 7


def take_down(aws: Aws, stack: Stack, state: StackState, say: Say, *, with_data: bool) -> None:
    """Delete the stack and, where it is asked for, bucket and key.

    Parameters
    ----------
    aws, stack, state, say
        What, where, and whom to tell.
    with_data
        Also delete every object of the bucket, the bucket, and the key that encrypts them.

    Raises
    ------
    DeployError
        Something could not be deleted.
    """
    say(f"deleting stack {stack.name}")
    stack.delete()
    bucket, key = state.outputs.get("BucketName"), state.outputs.get("KeyArn")
    if bucket is None or key is None:
        return
    if not with_data:
        say(f"kept: the bucket {bucket} and the key {key}, which encrypts what is in it")
        say("they cost what their storage costs, and a dollar a month for the key")
        return
    try:
        _delete_bucket(aws, bucket, say)
        aws.client("kms").schedule_key_deletion(KeyId=key, PendingWindowInDays=_KEY_DAYS)
    except ClientError as error:
        raise DeployError(
            f"not all data could be deleted: {error}",
            state=[f"the stack is gone; the bucket {bucket} or the key {key} is left"],
            steps=[
                f"aws s3 rb --force s3://{bucket}",
                f"aws kms schedule-key-deletion --key-id {key}",
            ],
        ) from error
    say(f"the key {key} will be deleted in {_KEY_DAYS} days; until then that can be cancelled")


def _delete_bucket(aws: Aws, bucket: str, say: Say) -> None:
    client: S3Client = aws.client("s3")
    count = 0
    for page in client.get_paginator("list_object_versions").paginate(Bucket=bucket):
        versions: list[Any] = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
        if not versions:
            continue
        answer = client.delete_objects(
            Bucket=bucket,
            Delete={
                "Objects": [
                    {"Key": item["Key"], "VersionId": item["VersionId"]} for item in versions
                ],
                "Quiet": True,
            },
        )
        if answer.get("Errors"):
            first = answer["Errors"][0]
            raise ClientError(
                {
                    "Error": {
                        "Code": first["Code"],
                        "Message": f"{first['Key']}: {first['Message']}",
                    }
                },
                "DeleteObjects",
            )
        count += len(versions)
        say(f"  {count:,} objects deleted")
    client.delete_bucket(Bucket=bucket)
    say(f"the bucket {bucket} is gone")
