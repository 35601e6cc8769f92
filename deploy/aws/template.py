"""The CloudFormation template, read as CloudFormation reads it, so far as that is needed here.

CloudFormation itself expands and resolves the template when it is deployed. Before that, the jobs'
own checks must see the property groups that it will give the applications; and tools that do not
know `Fn::ForEach` need the template without it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import ScalarNode, SequenceNode

from flink_jobs.config import ConfigError, JobConfig, load_config

TEMPLATE = Path(__file__).resolve().parents[1] / "template.yaml"

DOCUMENTATION_ACCOUNT = "123456789012"
"""Stands for the account where none is known; AWS's documentation uses it."""

MAX_TEMPLATE_BYTES = 51_200
"""A template that is no longer can be given to CloudFormation without a bucket."""

_LOOP = "Fn::ForEach::"
_APPLICATION = "AWS::KinesisAnalyticsV2::Application"
_NAME_PROPERTIES = {
    "AWS::Kinesis::Stream": "Name",
    "AWS::KinesisFirehose::DeliveryStream": "DeliveryStreamName",
    _APPLICATION: "ApplicationName",
}
_NO_VALUE = object()


class TemplateError(Exception):
    """The template uses what this module cannot read."""


@dataclass(frozen=True)
class Application:
    """An application of the template.

    Attributes
    ----------
    job
        The job that it runs.
    name
        Its name on AWS.
    properties
        The property groups in the service's own shape.
    """

    job: str
    name: str
    properties: list[dict[str, Any]]


class Template:
    """The template of one stack.

    Parameters
    ----------
    text
        YAML with CloudFormation's short forms.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._document, self._expanded = _parsed(text)

    @classmethod
    def read(cls, path: Path = TEMPLATE) -> Template:
        """Read the template of the project."""
        return cls(path.read_text(encoding="utf-8"))

    @property
    def parameters(self) -> dict[str, str]:
        """The parameters and their defaults, all of them as text."""
        return {
            name: str(parameter.get("Default", ""))
            for name, parameter in self._document["Parameters"].items()
        }

    def expanded(self) -> dict[str, Any]:
        """Return the template without `Fn::ForEach` and the transform that it needs."""
        return self._expanded

    def resources(self, parameters: Mapping[str, str]) -> dict[str, str]:
        """Return the types of the resources that there are with some parameters, by name.

        Parameters
        ----------
        parameters
            Those that differ from their defaults.
        """
        resolver = _Resolver(self._expanded, "", "", "", {**self.parameters, **parameters})
        holds = {
            name: resolver.resolve(condition)
            for name, condition in self._expanded.get("Conditions", {}).items()
        }
        return {
            name: resource["Type"]
            for name, resource in self._expanded["Resources"].items()
            if "Condition" not in resource or holds[resource["Condition"]]
        }

    def applications(
        self,
        stack: str,
        region: str,
        account: str = DOCUMENTATION_ACCOUNT,
        parameters: Mapping[str, str] | None = None,
    ) -> list[Application]:
        """Return the applications with the properties that CloudFormation will give them.

        Parameters
        ----------
        stack, region, account
            Of the stack; its resources are named after it.
        parameters
            Those that differ from their defaults.

        Raises
        ------
        TemplateError
            A property uses a function of CloudFormation that is not known here.
        """
        resolver = _Resolver(
            self._expanded, stack, region, account, {**self.parameters, **(parameters or {})}
        )
        found = []
        for resource in self._expanded["Resources"].values():
            if resource["Type"] == _APPLICATION:
                properties = resource["Properties"]
                groups = resolver.resolve(
                    properties["ApplicationConfiguration"]["EnvironmentProperties"][
                        "PropertyGroups"
                    ]
                )
                job = next(
                    group["PropertyMap"]["job"]
                    for group in groups
                    if group["PropertyGroupId"] == "application"
                )
                name = resolver.resolve(properties["ApplicationName"])
                found.append(Application(job, name, groups))
        return found


def check_applications(applications: Sequence[Application]) -> list[JobConfig]:
    """Check the applications' properties with the jobs' own code.

    Raises
    ------
    ConfigError
        Names every problem of every application.
    """
    configs, problems = [], []
    with TemporaryDirectory() as directory:
        for application in applications:
            path = Path(directory) / f"{application.name}.json"
            path.write_text(json.dumps(application.properties), encoding="utf-8")
            try:
                configs.append(load_config(path))
            except ConfigError as error:
                problems += [f"{application.job}: {problem}" for problem in error.problems]
    if problems:
        raise ConfigError("deploy/template.yaml", problems)
    return configs


# A command reads the same text several times, and each time takes a second.
@lru_cache(maxsize=8)
def _parsed(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the document as it is, and without its loops; neither is to be changed."""
    reader = YAML(typ="safe", pure=True)
    reader.constructor.add_multi_constructor("!", _short_form)
    document: dict[str, Any] = reader.load(text)
    expanded = {key: value for key, value in document.items() if key != "Transform"}
    expanded["Resources"] = _expand(expanded["Resources"])
    return document, expanded


def _short_form(constructor: Any, suffix: str, node: Any) -> dict[str, Any]:
    """Read `!Sub x` as `{"Fn::Sub": x}`."""
    value: Any
    if isinstance(node, ScalarNode):
        value = constructor.construct_scalar(node)
    elif isinstance(node, SequenceNode):
        value = constructor.construct_sequence(node, deep=True)
    else:
        value = constructor.construct_mapping(node, deep=True)
    if suffix in ("Ref", "Condition"):
        return {suffix: value}
    if suffix == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {f"Fn::{suffix}": value}


def _expand(value: Any) -> Any:
    """Unroll the loops, innermost last, and give references their plain form."""
    if isinstance(value, list):
        return [_expand(item) for item in value]
    if not isinstance(value, dict):
        return value
    unrolled: dict[str, Any] = {}
    for key, item in value.items():
        if key.startswith(_LOOP):
            identifier, collection, fragment = item
            for element in collection:
                unrolled |= _expand(_substituted(fragment, identifier, element))
        else:
            unrolled[key] = _expand(item)
    if "Ref" in unrolled:
        unrolled["Ref"] = _plain(unrolled["Ref"])
    if "Fn::GetAtt" in unrolled:
        unrolled["Fn::GetAtt"] = [_plain(part) for part in unrolled["Fn::GetAtt"]]
    return unrolled


def _substituted(value: Any, identifier: str, element: str) -> Any:
    if isinstance(value, str):
        return value.replace(f"${{{identifier}}}", element)
    if isinstance(value, list):
        return [_substituted(item, identifier, element) for item in value]
    if isinstance(value, dict):
        if value == {"Ref": identifier}:
            return element
        return {
            _substituted(key, identifier, element): _substituted(item, identifier, element)
            for key, item in value.items()
        }
    return value


def _plain(reference: Any) -> Any:
    return reference["Fn::Sub"] if isinstance(reference, dict) else reference


class _Resolver:
    """Values of the expanded template, as CloudFormation resolves them."""

    def __init__(
        self,
        document: Mapping[str, Any],
        stack: str,
        region: str,
        account: str,
        parameters: Mapping[str, str],
    ) -> None:
        self._document = document
        self._values: dict[str, Any] = {
            **parameters,
            "AWS::StackName": stack,
            "AWS::Region": region,
            "AWS::AccountId": account,
            "AWS::Partition": "aws",
            "AWS::NoValue": _NO_VALUE,
        }

    def resolve(self, value: Any) -> Any:
        if isinstance(value, list):
            return [resolved for item in value if (resolved := self.resolve(item)) is not _NO_VALUE]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            ((key, argument),) = value.items()
            if key == "Ref":
                return self._reference(argument)
            if key.startswith("Fn::"):
                return self._call(key, argument)
        return {
            key: resolved
            for key, item in value.items()
            if (resolved := self.resolve(item)) is not _NO_VALUE
        }

    def _reference(self, name: str) -> Any:
        if name in self._values:
            return self._values[name]
        resource = self._document["Resources"].get(name)
        kind = resource["Type"] if resource else None
        if kind == "AWS::SNS::Topic":
            topic = self.resolve(resource["Properties"]["TopicName"])
            region, account = self._values["AWS::Region"], self._values["AWS::AccountId"]
            return f"arn:aws:sns:{region}:{account}:{topic}"
        if kind not in _NAME_PROPERTIES:
            raise TemplateError(f"!Ref {name}: not known before it is deployed")
        return self.resolve(resource["Properties"][_NAME_PROPERTIES[kind]])

    def _call(self, function: str, argument: Any) -> Any:
        if function == "Fn::Sub":
            text, values = (argument, {}) if isinstance(argument, str) else argument
            for name, value in self.resolve(values).items():
                text = text.replace(f"${{{name}}}", str(value))
            for name in _names(text):
                text = text.replace(f"${{{name}}}", str(self._reference(name)))
            return text
        if function == "Fn::FindInMap":
            mapping, first, second = self.resolve(argument)
            return self._document["Mappings"][mapping][first][second]
        if function == "Fn::Join":
            separator, parts = self.resolve(argument)
            return separator.join(parts)
        if function == "Fn::If":
            condition, then, otherwise = argument
            holds = self.resolve(self._document["Conditions"][condition])
            return self.resolve(then if holds else otherwise)
        if function == "Fn::Equals":
            one, other = self.resolve(argument)
            # CloudFormation compares texts.
            return str(one) == str(other)
        if function == "Fn::Not":
            (condition,) = self.resolve(argument)
            return not condition
        raise TemplateError(f"{function}: not known here")


def _names(text: str) -> Iterator[str]:
    for part in text.split("${")[1:]:
        yield part.split("}", 1)[0]


def main() -> None:
    """Write the expanded template as JSON: for tools that do not know its loops."""
    json.dump(Template.read().expanded(), sys.stdout, indent=1)


if __name__ == "__main__":
    main()
