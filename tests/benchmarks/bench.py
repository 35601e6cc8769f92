"""What a benchmark is: variants that are compared, all of them in one run, round by round."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from tests.benchmarks.rates import Sample, drift, order, steady_rate


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a variant's job is told when it is submitted.

    Attributes
    ----------
    benchmark, variant
        Names.
    properties
        The sample of runtime properties, whose values the jobs are built with.
    endpoint_url
        Of an endpoint that answers at once; empty where the benchmark needs none.
    """

    benchmark: str
    variant: str
    properties: str
    endpoint_url: str


@dataclass(frozen=True, slots=True)
class Variant:
    """One of the things that are compared.

    Attributes
    ----------
    what
        In words, for the table.
    build
        Returns the job, a `StatementSet` that is not yet submitted. Its source is one of
        `tests.benchmarks.sources`. None where a client is measured.
    compared_to
        The variant that the ratio is to; None: it stands for itself.
    client
        Name of a client in `tests.benchmarks.clients` that asks the endpoint itself, without
        Flink; what the endpoint answers is counted then.
    faults
        What the endpoint does meanwhile, see `deploy.local.endpoint_faults.Faults`.
    """

    what: str
    build: Callable[[Parameters], Any] | None
    compared_to: str | None = None
    client: str | None = None
    faults: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Variants by name, and what goes with them.

    Attributes
    ----------
    name
        That of its module in `tests.benchmarks`, its target and its file.
    title
        Of the table.
    ratio
        What the ratio to `compared_to` is called.
    unit
        What a record of its sources is, in the plural.
    needs_endpoint
        Whether an endpoint must be there.
    parallelism
        Of every job, and slots of the TaskManager.
    others
        Jobs that are not raced, for `figures` to submit.
    figures
        Called at the end with the cluster (`tests.benchmarks.cluster.BenchCluster`) and what the
        file holds so far; returns what else it is to hold.
    """

    name: str
    title: str
    variants: Mapping[str, Variant]
    ratio: str
    unit: str = "reviews"
    needs_endpoint: bool = False
    parallelism: int = 1
    others: Mapping[str, Variant] = field(default_factory=dict)
    figures: Callable[[Any, Mapping[str, Any]], dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """How long and how often.

    Attributes
    ----------
    rounds
        Each measures every variant once.
    seconds
        A measurement takes so long.
    warm_up_s
        So long, at least, a job has been handling records before it is measured; up to four times
        as long while it is still getting faster.
    """

    rounds: int = 3
    seconds: float = 4.0
    warm_up_s: float = 3.0


@dataclass(frozen=True, slots=True)
class Measured:
    """What was seen of a job in its steady state.

    Attributes
    ----------
    samples
        Its counter, from the first to the last moment that counts.
    cores
        Processor cores that were busy meanwhile, by who kept them so: `jvm` and `python` of the
        TaskManager, the `endpoint`, and all `other` processes of the machine.
    """

    samples: tuple[Sample, ...]
    cores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Measurement:
    """A variant in a round, both counted from 1 in the order they were measured in."""

    round: int
    position: int
    variant: str
    measured: Measured

    @property
    def records_per_s(self) -> float:
        """Records a second."""
        return steady_rate(self.measured.samples)

    @property
    def drift(self) -> float | None:
        """See `tests.benchmarks.rates.drift`; None where there are too few samples for halves."""
        return drift(self.measured.samples) if len(self.measured.samples) > 2 else None


Measure = Callable[[str], Measured]
"""Measures the variant of that name."""


def measurements(
    benchmark: Benchmark,
    options: Options,
    open_round: Callable[[int], AbstractContextManager[Measure]],
) -> Iterator[Measurement]:
    """Measure every variant in every round, and yield each measurement as it is made.

    Parameters
    ----------
    benchmark, options
        What, and how often.
    open_round
        Called with the number of each round, from 1: what its variants are measured in, and what
        they leave behind goes with it.
    """
    for number in range(1, options.rounds + 1):
        with open_round(number) as measure:
            names = order([*benchmark.variants], number, options.rounds)
            for position, name in enumerate(names, 1):
                yield Measurement(number, position, name, measure(name))
