"""Which releases there were: a record of each in the bucket, enough to go back to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from deploy.aws.session import Aws

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_PREFIX = "releases/"


@dataclass(frozen=True)
class Release:
    """What was deployed.

    Attributes
    ----------
    id
        The time at which it was deployed, so that ids are in order.
    template
        Text of the template.
    parameters
        Of the stack.
    """

    id: str
    template: str
    parameters: Mapping[str, str]

    @property
    def code_key(self) -> str:
        """Object of the applications' zip."""
        return self.parameters.get("CodeKey", "")

    def is_as(self, other: Release) -> bool:
        """Whether both put the same in place."""
        return (self.template, self.parameters) == (other.template, other.parameters)


def release_id(time: datetime) -> str:
    """Return the id of a release that is put in place now.

    >>> release_id(datetime(2026, 1, 2, 3, 4, 5))
    '20260102T030405Z'
    """
    return f"{time:%Y%m%dT%H%M%SZ}"


class History:
    """The releases of one stack, in its bucket.

    Parameters
    ----------
    aws, bucket
        Where.
    """

    def __init__(self, aws: Aws, bucket: str) -> None:
        self._bucket = bucket
        self._client: S3Client = aws.client("s3")

    def add(self, release: Release) -> None:
        """Record a release that works."""
        self._client.put_object(
            Bucket=self._bucket,
            Key=f"{_PREFIX}{release.id}.json",
            Body=json.dumps(asdict(release), indent=1).encode(),
        )

    def ids(self) -> list[str]:
        """Return the ids of all recorded releases, the latest first."""
        found = []
        pages = self._client.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self._bucket, Prefix=_PREFIX):
            found += [
                item["Key"].removeprefix(_PREFIX).removesuffix(".json")
                for item in page.get("Contents", [])
            ]
        return sorted(found, reverse=True)

    def release(self, recorded: str) -> Release:
        """Return the recorded release with an id."""
        answer = self._client.get_object(Bucket=self._bucket, Key=f"{_PREFIX}{recorded}.json")
        return Release(**json.loads(answer["Body"].read()))

    def before(self, current: Release) -> Release | None:
        """Return the release that ran before the current one, None where there is none.

        Where the current one was put in place several times, the last time counts; where it is
        not on record, every release on record was before it.
        """
        releases = [self.release(recorded) for recorded in self.ids()]
        ran = [number for number, release in enumerate(releases) if release.is_as(current)]
        older = releases[ran[0] + 1 :] if ran else releases
        return next((release for release in older if not release.is_as(current)), None)
