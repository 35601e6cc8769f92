"""Entry script of every benchmark's jobs: submits the variant that the file names.

flink run -py tests/benchmarks/entry.py --properties FILE
"""

import argparse
import importlib
import json
from pathlib import Path

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--properties", type=Path, required=True, metavar="FILE")
    path = parser.parse_args().properties

    from tests.benchmarks.bench import Parameters

    parameters = Parameters(**json.loads(path.read_text(encoding="utf-8")))
    module = importlib.import_module(f"tests.benchmarks.{parameters.benchmark}")
    jobs = {**module.BENCHMARK.variants, **module.BENCHMARK.others}
    jobs[parameters.variant].build(parameters).execute()
