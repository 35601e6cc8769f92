"""Checks of single properties, and of values that several groups share."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from botocore.exceptions import UnknownRegionError
from botocore.session import Session

_USER = re.compile(r"//[^/\s]*@")


def checked_region(region: str) -> str:
    """Return an AWS region; also one that is newer than this release.

    Raises
    ------
    ValueError
        No partition of AWS has regions of such a name.

    Examples
    --------
    >>> checked_region("cn-north-1")
    'cn-north-1'
    """
    try:
        partition_of(region)
    except UnknownRegionError:
        raise ValueError("is not an AWS region, such as eu-west-1") from None
    return region


def partition_of(region: str) -> str:
    """Return the partition of AWS that a region belongs to.

    >>> partition_of("us-gov-west-1")
    'aws-us-gov'
    """
    return str(Session().get_partition_for_region(region))


def checked_url(url: str) -> str:
    """Return the address of a server: scheme, host and port, nothing else.

    Raises
    ------
    ValueError
        Says what is wrong, without the address: it may hold a password.

    Examples
    --------
    >>> checked_url("http://127.0.0.1:5000")
    'http://127.0.0.1:5000'
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"is not a URL: {without_users(str(error))}") from None
    if parts.scheme not in ("http", "https") or not host or not re.fullmatch(r"[!-~]+", url):
        raise ValueError("is not an address such as http://127.0.0.1:5000")
    if "@" in parts.netloc:
        raise ValueError("has a user or password: credentials come from the SDKs' default chain")
    if parts.path not in ("", "/") or "?" in url or "#" in url:
        raise ValueError("has more than scheme, host and port")
    if port == 0:
        raise ValueError("has the port 0: must be 1 to 65535")
    return url


def without_users(text: str) -> str:
    """Return a text that may be logged: without the users and passwords of URLs.

    >>> without_users("'http://{}:{}@example.com'".format("me", "secret"))
    "'http://***@example.com'"
    """
    return _USER.sub("//***@", text)


def checked_namespace(namespace: str) -> str:
    """Return a namespace of CloudWatch metrics.

    Raises
    ------
    ValueError
        CloudWatch refuses it, or it is one of those that AWS keeps for its own services.
    """
    if not re.fullmatch(r"[0-9A-Za-z._/#: -]{1,255}", namespace):
        raise ValueError("must be 1 to 255 characters of a-z, A-Z, 0-9, space and . - _ / # :")
    if namespace.startswith(":"):
        raise ValueError("must not begin with a colon")
    if namespace.upper().startswith("AWS/"):
        raise ValueError("must not begin with AWS/, which is for the services of AWS")
    return namespace


def shared_names(names: Mapping[str, str], why: str) -> Iterator[str]:
    """Name the properties whose values must differ and do not.

    Parameters
    ----------
    names
        Values by `group.key`.
    why
        What would happen.

    Examples
    --------
    >>> list(shared_names({"a.stream": "x", "b.stream": "x", "c.stream": "y"}, "they mix"))
    ["a.stream, b.stream = 'x': must differ, because they mix"]
    """
    places: dict[str, list[str]] = defaultdict(list)
    for place, name in names.items():
        places[name].append(place)
    for name, same in places.items():
        if len(same) > 1:
            yield f"{', '.join(same)} = {name!r}: must differ, because {why}"


def topic_problem(topic_arn: str, region: str) -> str | None:
    """Say why a topic cannot be reached from a region; None where it can.

    >>> topic_problem("arn:aws:sns:eu-west-1:123456789012:alerts", "eu-west-1")
    """
    _, partition, _, topic_region, *_ = topic_arn.split(":")
    expected = partition_of(region)
    if topic_region != region:
        return f"must be in the region of aws.region = {region!r}"
    if partition != expected:
        return f"must begin with 'arn:{expected}:', the partition of aws.region = {region!r}"
    return None
