"""Task boundaries: a table becomes a stream and a table again, inside the JVM.

Operators chained to the Kinesis source run in the source's own thread. A Python operator that fails
there does not fail its task before the task acknowledges a checkpoint. Behind an exchange it runs
in a task of its own, which ends on the failure: see decision 15. SQL has no exchange without an
aggregate, hence the stream. Rows keep the engine's own data structures and do not pass Python.
"""

from collections.abc import Sequence
from typing import Any

from pyflink.java_gateway import get_gateway
from pyflink.table import Schema, StreamTableEnvironment

# Of a buffer that is not full. The engine's default, 100 ms, would add to the bundle's time.
_BUFFER_TIMEOUT_MS = 10


def start_task(
    t_env: StreamTableEnvironment,
    name: str,
    table: str,
    columns: Sequence[str],
    schema: Schema | None = None,
) -> None:
    """Define the view `name`: columns of `table`, handed to another task.

    Each subtask gets what the same subtask of the source reads, in its order.

    Parameters
    ----------
    t_env
        Where both are.
    name, table
        The view to define, and the table or view to read.
    columns
        Those of `table` to take along.
    schema
        Computed columns and watermark of the view; `columns` need not be in it.
    """
    j_table = t_env.sql_query(f"SELECT {', '.join(columns)} FROM {table}")._j_table
    j_stream = t_env._j_tenv.toDataStream(j_table, _internal_row_type(j_table))
    transformation = j_stream.getTransformation()
    strategies = get_gateway().jvm.org.apache.flink.streaming.api.operators.ChainingStrategy
    # The head of a chain: its input is an exchange, its operators are chained to it as ever.
    transformation.setChainingStrategy(strategies.HEAD)
    for producer in transformation.getInputs():
        producer.setBufferTimeout(_BUFFER_TIMEOUT_MS)
    _create_view(t_env, name, j_stream, schema)


def spread_over_lanes(
    t_env: StreamTableEnvironment, name: str, table: str, columns: Sequence[str], key: str
) -> None:
    """Define the view `name`: the columns of `table` and `lane STRING`, one lane a subtask.

    A row's lane follows from its key alone, so that rows of a shard keep their order within a lane,
    also when they are read again after a failure. `lane` is such as `3/8`: lanes of another
    parallelism are other lanes.

    Parameters
    ----------
    t_env
        Where both are.
    name, table
        The view to define, and the table or view to read.
    columns
        Those of `table` to take along.
    key
        The column that says which lane: a STRING, never null.
    """
    lanes = parallelism(t_env)
    names = ", ".join(columns)
    laned = t_env.sql_query(f"SELECT {lane_of(key, lanes)} AS lane, {names} FROM {table}")
    j_table = laned._j_table
    gateway = get_gateway()
    # A Row, which the key selector reads, of the engine's own fields.
    row_type = _internal_row_type(j_table).bridgedTo(_java_class("org.apache.flink.types.Row"))
    j_stream = t_env._j_tenv.toDataStream(j_table, row_type)
    planned = j_stream.getExecutionEnvironment().getParallelism()
    if planned != lanes:
        raise RuntimeError(f"expected a parallelism of {lanes}, the engine has planned {planned}")
    j_stream.getTransformation().setBufferTimeout(_BUFFER_TIMEOUT_MS)
    # As PyFlink's own `partition_custom`, which reads the first field too.
    flink = gateway.jvm.org.apache.flink
    j_lanes = j_stream.partitionCustom(
        flink.api.java.functions.IdPartitioner(),
        flink.streaming.api.functions.python.PartitionCustomKeySelector(),
    )
    _create_view(t_env, f"{name}_rows", j_lanes)
    t_env.execute_sql(f"""
        CREATE TEMPORARY VIEW {name} AS
        SELECT {names}, CAST(lane AS STRING) || '/{lanes}' AS lane FROM {name}_rows""")


def parallelism(t_env: StreamTableEnvironment) -> int:
    """Return the parallelism that the engine plans with."""
    j_env = t_env._j_tenv.execEnv()
    return int(t_env.get_config().get("parallelism.default", str(j_env.getParallelism())))


def lane_of(key: str, lanes: int) -> str:
    """Return the SQL expression of a lane, from 0 to `lanes` - 1, by a hash of the column `key`.

    Of Kinesis sequence numbers the last bits are always the same, hence the hash; its first nine
    decimal digits are enough for any number of lanes.
    """
    digits = f"SUBSTRING(REGEXP_REPLACE(MD5({key}), '[a-f]', ''), 1, 9)"
    return f"MOD(CAST('0' || {digits} AS INT), {lanes})"


def _internal_row_type(j_table: Any) -> Any:
    """Return the type of a table's rows in the engine's own data structures: no conversion."""
    utils = get_gateway().jvm.org.apache.flink.table.types.utils.DataTypeUtils
    return utils.toInternalDataType(j_table.getResolvedSchema().toPhysicalRowDataType())


def _java_class(name: str) -> Any:
    jvm = get_gateway().jvm
    return jvm.Class.forName(name, True, jvm.Thread.currentThread().getContextClassLoader())


def _create_view(
    t_env: StreamTableEnvironment, name: str, j_stream: Any, schema: Schema | None = None
) -> None:
    j_tenv = t_env._j_tenv
    if schema is None:
        j_tenv.createTemporaryView(name, j_stream)
    else:
        j_tenv.createTemporaryView(name, j_stream, schema._j_schema)
