"""Records as the Kinesis Producer Library aggregates them."""

from collections.abc import Mapping

from aws_kinesis_agg.aggregator import RecordAggregator


def aggregated(payloads: Mapping[str, bytes]) -> bytes:
    """Return one record that holds several, by partition key."""
    aggregator = RecordAggregator()
    for partition_key, payload in payloads.items():
        aggregator.add_user_record(partition_key, payload)
    _, _, data = aggregator.clear_and_get().get_contents()
    return bytes(data)
