"""Error codes with which AWS services throttle."""

# As services and SDKs name them, without the suffix "Exception" that some protocols add. botocore
# keeps such a table too, but not for others to use, and without the codes of KMS.
_CODES = frozenset(
    {
        "BandwidthLimitExceeded",
        "LimitExceeded",
        "ProvisionedThroughputExceeded",
        "RequestLimitExceeded",
        "SlowDown",
        "TooManyRequests",
    }
)


def is_throttling(code: str) -> bool:
    """Return whether a service's error code asks the client to slow down.

    Such an error may come with status 400: only the code distinguishes it from others.

    >>> [is_throttling(code) for code in ("Throttling", "KMSThrottlingException", "SlowDown")]
    [True, True, True]
    >>> is_throttling("ValidationException")
    False
    """
    return "throttl" in code.lower() or code.removesuffix("Exception") in _CODES
