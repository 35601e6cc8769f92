"""What the tests of the transforms share: files as tables, and the plans of the jobs."""

import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyflink
from pyflink.util.java_utils import add_jars_to_context_class_loader

from deploy.local.stack import read_properties, write_properties
from flink_jobs import streams
from flink_jobs.config import load_config
from flink_jobs.environment import create_environment

PROPERTIES = Path("deploy/runtime_properties.json")
JAR = Path("build/flink-aws-connectors.jar")


def file_table(name: str, columns: streams.Columns, path: Path, data_format: str) -> str:
    schema = ", ".join(f"`{column}` {sql_type}" for column, sql_type in columns)
    return f"CREATE TEMPORARY TABLE {name} ({schema}) WITH ({file_options(path, data_format)})"


def file_options(path: Path, data_format: str) -> str:
    options = {"connector": "filesystem", "path": path.as_uri(), "format": data_format}
    if data_format == "json":
        options["json.timestamp-format.standard"] = "ISO-8601"
    return ", ".join(f"'{key}' = '{value}'" for key, value in options.items())


def lines(directory: Path) -> list[dict[str, Any]]:
    files = [path for path in directory.rglob("*") if path.is_file() and path.name[0] != "."]
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(files))
    return [json.loads(line) for line in text.split("\n") if line]


@dataclass(frozen=True)
class Task:
    """A task of a job: its operators, in words, and how it gets its rows from which other tasks."""

    operators: str
    inputs: tuple[tuple[str, str], ...]


def optimised_plan(job: str, tmp_path: Path) -> str:
    """Return the plan that a job has with the real connectors, behind the bridges."""
    _, statements = _build(job, tmp_path)
    return str(statements.explain()).split("== Optimized Execution Plan ==")[1]


def tasks(job: str, tmp_path: Path) -> list[Task]:
    """Return the tasks that a job has with the real connectors, sources first."""
    t_env, statements = _build(job, tmp_path)
    statements.attach_as_datastream()
    graph = t_env._j_tenv.execEnv().getStreamGraph(False).getJobGraph()
    return [
        Task(
            vertex.getName(),
            tuple(
                (edge.getShipStrategyName(), edge.getSource().getProducer().getName())
                for edge in vertex.getInputs()
            ),
        )
        for vertex in graph.getVerticesSortedTopologicallyFromSources()
    ]


def _build(job: str, tmp_path: Path) -> tuple[Any, Any]:
    properties = read_properties(PROPERTIES)
    properties["application"]["job"] = job
    write_properties(tmp_path / "properties.json", properties)
    config = load_config(tmp_path / "properties.json")
    # Before the environment is made: it keeps the class loader that it finds.
    flink_python = Path(pyflink.__file__).parent.glob("opt/flink-python-*.jar")
    add_jars_to_context_class_loader([path.absolute().as_uri() for path in (JAR, *flink_python)])
    t_env = create_environment(config)
    return t_env, importlib.import_module(f"flink_jobs.{job}").build(t_env, config)
