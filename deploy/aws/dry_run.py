"""What a dry run imagines AWS to be: everything that is asked for works at once."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from botocore.response import StreamingBody

from deploy.aws.artifacts import VARIANTS
from deploy.aws.history import Release
from deploy.aws.template import DOCUMENTATION_ACCOUNT, Template

_BUCKET = "BUCKET-OF-THE-STACK"
_TIME = datetime(2026, 1, 1, tzinfo=UTC)


class ImaginedWorld:
    """A stack that does not exist yet, or one that runs.

    Parameters
    ----------
    template
        Of the stack.
    stack, region
        Where.
    exists
        Whether it runs already.
    """

    def __init__(self, template: Template, stack: str, region: str, *, exists: bool) -> None:
        self._template = template
        self._stack = stack
        self._region = region
        self._status = "CREATE_COMPLETE" if exists else ""
        self._running = exists
        self._parameters = template.parameters
        if exists:
            self._parameters |= {
                "CodeKey": "code/the-running-one.zip",
                "ModelTfidfLogistic": "model/tfidf-logistic-the-running-one.tar.gz",
                "ModelHashingBayes": "model/hashing-bayes-the-running-one.tar.gz",
            }
        self._changed = self._parameters
        earlier = {**self._parameters, "CodeKey": "code/the-one-before.zip"}
        self._before = Release("20260101T000000Z", template.text, earlier)
        self._resources_there = template.resources(self._parameters) if exists else {}

    def answer(self, service: str, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parsed answer to a call."""
        match operation:
            case "CreateTrainingJob":
                name = parameters["TrainingJobName"]
                return {"TrainingJobArn": self._arn("sagemaker", f"training-job/{name}")}
            case "GetCallerIdentity":
                return {"Account": DOCUMENTATION_ACCOUNT}
            case "DescribeStacks":
                return self._stacks()
            case "CreateChangeSet":
                self._changed = {
                    item["ParameterKey"]: item["ParameterValue"]
                    for item in parameters["Parameters"]
                }
                return {"Id": "CHANGE-SET", "StackId": "STACK"}
            case "DescribeChangeSet":
                return {"Status": "CREATE_COMPLETE", "Changes": self._changes()}
            case "ExecuteChangeSet":
                self._status = "UPDATE_COMPLETE" if self._status else "CREATE_COMPLETE"
                self._parameters = {**self._template.parameters, **self._changed}
                self._resources_there = self._template.resources(self._parameters)
                return {}
            case "DeleteStack":
                self._status = ""
                return {}
            case "GetTemplate":
                return {"TemplateBody": self._template.text}
            case "DescribeStackEvents":
                return {"StackEvents": []}
            case "ListStackResources":
                return {"StackResourceSummaries": self._resources()}
            case "DescribeApplication":
                return {"ApplicationDetail": self._application(parameters["ApplicationName"])}
            case "StartApplication" | "StopApplication":
                self._running = operation == "StartApplication"
                return {}
            case "DescribeApplicationSnapshot":
                return {
                    "SnapshotDetails": {
                        "SnapshotName": parameters["SnapshotName"],
                        "SnapshotStatus": "READY",
                        "ApplicationVersionId": 1,
                    }
                }
            case "ListApplicationSnapshots":
                return {"SnapshotSummaries": []}
            case "GetMetricData":
                values = {"m0": [60_000.0], "m1": [0.0], "m2": [0.0]}
                return {
                    "MetricDataResults": [
                        {"Id": query["Id"], "Values": values.get(query["Id"], [])}
                        for query in parameters["MetricDataQueries"]
                    ]
                }
            case "DescribeAlarms":
                return {"MetricAlarms": []}
            case "FilterLogEvents":
                return {"events": []}
            case "DescribeEndpoint":
                name = parameters["EndpointName"]
                return {
                    "EndpointName": name,
                    "EndpointArn": self._arn("sagemaker", f"endpoint/{name}"),
                    "EndpointStatus": "InService",
                    "CreationTime": _TIME,
                    "LastModifiedTime": _TIME,
                    "ProductionVariants": [
                        {"VariantName": variant, "CurrentWeight": 1.0, "CurrentInstanceCount": 1}
                        for variant in VARIANTS
                    ],
                }
            case "ListObjectsV2":
                return {"Contents": self._releases(parameters["Prefix"])}
            case "GetObject":
                body = json.dumps(asdict(self._before)).encode()
                return {"Body": StreamingBody(io.BytesIO(body), len(body))}
            case "ListObjectVersions":
                return {"Versions": [], "DeleteMarkers": []}
            case "ListShards":
                return {
                    "Shards": [
                        {
                            "ShardId": "shardId-000000000000",
                            "HashKeyRange": {"StartingHashKey": "0", "EndingHashKey": "1"},
                            "SequenceNumberRange": {"StartingSequenceNumber": "0"},
                        }
                    ]
                }
            case "DescribeStreamSummary":
                return {"StreamDescriptionSummary": self._stream(parameters["StreamName"])}
            case "GetShardIterator":
                return {"ShardIterator": "ITERATOR"}
            case "GetRecords":
                return {"Records": [], "MillisBehindLatest": 0}
            case "PutRecords":
                return {
                    "Records": [
                        {"ShardId": "shardId-000000000000", "SequenceNumber": str(number)}
                        for number, _ in enumerate(parameters["Records"])
                    ],
                }
        return {}

    def _stream(self, name: str) -> dict[str, Any]:
        return {
            "StreamName": name,
            "StreamARN": self._arn("kinesis", f"stream/{name}"),
            "StreamStatus": "ACTIVE",
            "RetentionPeriodHours": 24,
            "StreamCreationTimestamp": _TIME,
            "EnhancedMonitoring": [],
            "OpenShardCount": 1,
        }

    def _releases(self, prefix: str) -> list[dict[str, Any]]:
        """Return the object of the release before the one that runs, so that one can go back."""
        key = f"releases/{self._before.id}.json"
        return [{"Key": key}] if self._status and key.startswith(prefix) else []

    def _changes(self) -> list[dict[str, Any]]:
        """Return what a change set adds and removes; what it modifies only CloudFormation knows."""
        there, wanted = self._resources_there, self._template.resources(self._changed)
        named = [("Add", name, kind) for name, kind in wanted.items() if name not in there]
        named += [("Remove", name, kind) for name, kind in there.items() if name not in wanted]
        return [
            {
                "Type": "Resource",
                "ResourceChange": {
                    "Action": action,
                    "LogicalResourceId": name,
                    "ResourceType": kind,
                },
            }
            for action, name, kind in named
        ]

    def _stacks(self) -> dict[str, Any]:
        if not self._status:
            return {
                "Error": {
                    "Code": "ValidationError",
                    "Message": f"Stack with id {self._stack} does not exist",
                }
            }
        outputs = {
            "BucketName": _BUCKET,
            "KeyArn": self._arn("kms", "key/KEY"),
            "ModelRoleArn": self._arn("iam", "role/MODEL-ROLE"),
            "ReviewsStream": f"{self._stack}-reviews",
            "DeadLettersStream": f"{self._stack}-dead-letters",
            "EndpointName": f"{self._stack}-reviews",
            "DashboardName": self._stack,
        }
        return {
            "Stacks": [
                {
                    "StackName": self._stack,
                    "CreationTime": _TIME,
                    "StackStatus": self._status,
                    "Parameters": [
                        {"ParameterKey": key, "ParameterValue": value}
                        for key, value in self._parameters.items()
                    ],
                    "Outputs": [
                        {"OutputKey": key, "OutputValue": value} for key, value in outputs.items()
                    ],
                }
            ]
        }

    def _application(self, name: str) -> dict[str, Any]:
        """Return what an application is that took over the stack's parameters."""
        code = {
            "S3ApplicationCodeLocationDescription": {
                "BucketARN": f"arn:aws:s3:::{_BUCKET}",
                "FileKey": self._parameters["CodeKey"],
            }
        }
        parallelism = {"ConfigurationType": "CUSTOM", "Parallelism": 1, "CurrentParallelism": 1}
        return {
            "ApplicationARN": self._arn("kinesisanalytics", f"application/{name}"),
            "ApplicationName": name,
            "RuntimeEnvironment": "FLINK-1_20",
            "ApplicationStatus": "RUNNING" if self._running else "READY",
            "ApplicationVersionId": 1,
            "ApplicationConfigurationDescription": {
                "ApplicationCodeConfigurationDescription": {
                    "CodeContentType": "ZIPFILE",
                    "CodeContentDescription": code,
                },
                "FlinkApplicationConfigurationDescription": {
                    "ParallelismConfigurationDescription": parallelism
                },
            },
        }

    def _arn(self, service: str, name: str) -> str:
        return f"arn:aws:{service}:{self._region}:{DOCUMENTATION_ACCOUNT}:{name}"

    def _resources(self) -> list[dict[str, Any]]:
        return [
            {
                "LogicalResourceId": name,
                "ResourceType": kind,
                "PhysicalResourceId": f"{self._stack}-{name}",
                "ResourceStatus": "CREATE_COMPLETE",
                "LastUpdatedTimestamp": _TIME,
            }
            for name, kind in self._resources_there.items()
        ]
