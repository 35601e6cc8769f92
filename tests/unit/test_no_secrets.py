"""Nothing that is committed names an account or holds a key: also runs without any scanner."""

import re
import subprocess
from pathlib import Path

import pytest

PATTERNS = {
    "AWS access key": r"\b(?:AKIA|ASIA|AROA|AIDA)[0-9A-Z]{16}\b",
    # Beside its name; no other 40 characters can be told from a digest.
    "AWS secret key": r"(?i)secret_?(?:access_?)?key\W{1,6}[A-Za-z0-9/+=]{40}\b",
    "account in an ARN": r"arn:aws[a-z-]*:[a-z0-9-]*:[a-z0-9-]*:(?!123456789012)\d{12}:",
    "account of a registry": r"\b\d{12}\.dkr\.ecr\.",
    "account in an option": r"(?i)account(?:_?id)?\W{1,4}(?!123456789012)\d{12}\b",
    "private key": r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----",
    "GitHub token": r"\bgh[pousr]_[A-Za-z0-9]{36}\b",
    "JSON web token": r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.",
}


def found(text: str) -> list[str]:
    return [name for name, pattern in PATTERNS.items() if re.search(pattern, text)]


def test_nothing_that_is_committed_holds_a_secret() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, check=True).stdout
    paths = [Path(name) for name in listed.decode().split("\0") if name]
    assert len(paths) > 100
    secrets = {
        str(path): names
        for path in paths
        if path.is_file() and (names := found(path.read_text(encoding="utf-8", errors="replace")))
    }
    assert secrets == {}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        # In parts, so that this file holds none.
        ("AWS access key", "AKIA" + "ABCDEFGHIJKLMNOP"),
        ("AWS secret key", 'aws_secret_access_key = "' + "a1B2" * 10 + '"'),
        ("account in an ARN", "arn:aws:iam::" + "210987654321" + ":role/x"),
        ("account of a registry", "210987654321" + ".dkr.ecr.eu-west-1.amazonaws.com"),
        ("account in an option", "account_id: " + "210987654321"),
        ("private key", "-----BEGIN RSA " + "PRIVATE KEY-----"),
        ("GitHub token", "ghp_" + "a" * 36),
        ("JSON web token", "eyJ" + "a" * 12 + ".eyJ" + "b" * 12 + ".c"),
    ],
)
def test_each_kind_would_be_found(name: str, text: str) -> None:
    assert found(text) == [name]


def test_the_documentations_account_may_stand_anywhere() -> None:
    assert found("arn:aws:iam::123456789012:role/x account: 123456789012") == []
