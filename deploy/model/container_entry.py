"""What SageMaker's training job runs.

The container's paths come in environment variables (SageMaker Training Toolkit).
"""

import json
import os
from pathlib import Path

from deploy.local.file_options import file_options
from deploy.model.data import read_reviews
from deploy.model.train import train_and_save

_MAX_ROWS = 5_000_000


def main() -> None:
    """Train every variant on the first file of the channel `training`."""
    data = sorted(Path(os.environ["SM_CHANNEL_TRAINING"]).iterdir())[0]
    given = json.loads(os.environ.get("SM_HPS", "{}"))
    options = file_options(given.get("columns"), given.get("category"))
    texts, ratings = read_reviews(data, max_rows=_MAX_ROWS, options=options)
    print(f"{len(texts):,} reviews of {data.name}", flush=True)
    metrics = train_and_save(texts, ratings, Path(os.environ["SM_MODEL_DIR"]), seed=1, report=print)
    for variant, figures in metrics.items():
        print(variant, *(f"{name}={figure:.4f}" for name, figure in figures.items()))


if __name__ == "__main__":
    main()
