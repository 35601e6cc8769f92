import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from deploy.local import jobs


def test_jobs_come_in_the_order_of_the_data_flow() -> None:
    assert jobs.chosen(None) == jobs.JOBS
    assert jobs.JOBS == ("review_scoring", "review_metrics", "rating_anomalies")
    assert jobs.chosen("rating_anomalies,review_scoring") == (jobs.JOBS[0], jobs.JOBS[2])
    assert jobs.chosen(" review_scoring ,") == ("review_scoring",)


@pytest.mark.parametrize("names", ["review_scorign", ""])
def test_an_unknown_job_names_the_known_ones(names: str) -> None:
    with pytest.raises(ValueError, match=r"no such job: .*jobs: review_scoring"):
        jobs.chosen(names)


def test_the_zip_is_all_that_a_worker_needs(tmp_path: Path) -> None:
    archive = jobs.write_pyfiles(tmp_path / "python.zip")
    with zipfile.ZipFile(archive) as files:
        assert all(name.endswith(".py") for name in files.namelist())
    code = (
        f"import sys; sys.path.insert(0, {str(archive)!r}); import udfs.scoring, udfs.parsing,"
        " udfs.dead_letters, udfs.publishing, udfs.scored_records, udfs.summaries,"
        " flink_jobs.review_scoring, flink_jobs.review_metrics; print(udfs.scoring.__file__)"
    )
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=tmp_path,
        env={"PATH": ""},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert str(archive) in result.stdout


def test_cores_import_without_pyflink() -> None:
    code = (
        "import sys; sys.modules['pyflink'] = None\n"
        "import udfs.core.parsing, udfs.core.scoring, udfs.core.endpoint, udfs.core.event_loop\n"
        "import udfs.core.dead_letters, udfs.core.publishing, udfs.core.sketches\n"
        "import udfs.core.scored_records, udfs.core.watermarks\n"
        "import flink_jobs.config, flink_jobs.streams"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
