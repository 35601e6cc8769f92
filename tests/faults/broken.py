"""An entry script that submits the jobs of `deploy/main.py` with one thing broken in each.

- `review_scoring`, a sink: dead letters go nowhere.
- `review_metrics`, the dropping of repeats: each copy of a review counts.
- `rating_anomalies`, a source: it loses some records, and takes no checkpoint in time.
"""

import runpy
import sys
from pathlib import Path
from typing import Any

from flink_jobs import rating_anomalies, review_metrics, review_scoring, scored_reviews, streams

_ENTRY = Path(__file__).parents[2] / "deploy" / "main.py"

_build_scoring = review_scoring.build
_build_metrics = review_metrics.build
_build_anomalies = rating_anomalies.build


def scoring_without_dead_letters(t_env: Any, config: Any) -> Any:
    sink = streams.dead_letters_sink

    def nowhere(*arguments: Any) -> streams.Table:
        table = sink(*arguments)
        schema, _, _ = table.ddl.partition(" WITH (")
        return streams.Table(table.name, f"{schema} WITH ('connector' = 'blackhole')")

    streams.dead_letters_sink = nowhere
    return _build_scoring(t_env, config)


def metrics_with_copies(t_env: Any, config: Any) -> Any:
    create_views = scored_reviews.create_views

    def without_dedupe(t_env: Any) -> None:
        create_views(t_env)
        t_env.drop_temporary_view("unique_reviews")
        t_env.execute_sql(
            "CREATE TEMPORARY VIEW unique_reviews AS"
            " SELECT * FROM scored_reviews WHERE reason IS NULL"
        )

    scored_reviews.create_views = without_dedupe
    return _build_metrics(t_env, config)


def anomalies_with_gaps(t_env: Any, config: Any) -> Any:
    t_env.get_config().set("execution.checkpointing.interval", "1 d")
    create_views = scored_reviews.create_views

    def without_some(t_env: Any, records: str) -> None:
        t_env.execute_sql(
            "CREATE TEMPORARY VIEW records_with_gaps AS"
            f" SELECT * FROM {records} WHERE star_rating IS DISTINCT FROM 3"
        )
        create_views(t_env, "records_with_gaps")

    scored_reviews.create_views = without_some
    return _build_anomalies(t_env, config)


if __name__ == "__main__":
    review_scoring.build = scoring_without_dead_letters
    review_metrics.build = metrics_with_copies
    rating_anomalies.build = anomalies_with_gaps
    sys.exit(runpy.run_path(str(_ENTRY))["main"](sys.argv[1:]))
