import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest

from deploy.local.emulator import PROJECT_ROOT
from deploy.local.process import (
    Child,
    PartDiedError,
    PartNotReadyError,
    free_port,
    last_lines,
    stop_all,
)
from tests.waiting import is_alive, until

# Starts a process of its own, in the same group or in a session of its own, then says so.
PARENT = """
import subprocess, sys, time
child = subprocess.Popen(["sleep", "600"], start_new_session=sys.argv[1] == "own")
print(child.pid, flush=True)
time.sleep(600)
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(600)
"""


def python(script: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", script, *arguments]


def is_gone(pid: int) -> bool:
    try:
        return not is_alive(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return True


def first_line(path: Path) -> str:
    until(lambda: path.exists() and path.read_text().endswith("\n"))
    return path.read_text().splitlines()[0]


def test_the_preferred_port_is_taken_when_free_and_handed_out_once() -> None:
    preferred = free_port(0)
    with socket.create_server(("127.0.0.1", preferred)):
        pass
    ports = [free_port(preferred) for _ in range(3)]
    assert len({preferred, *ports}) == 4


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_port_somebody_listens_on_is_not_free(address: str) -> None:
    with socket.create_server((address, 0)) as server:
        taken = server.getsockname()[1]
        assert free_port(taken) != taken


def test_ports_are_unique_across_threads() -> None:
    ports: list[int] = []
    threads = [threading.Thread(target=lambda: ports.append(free_port(18_081))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ports)) == 20


def test_output_goes_to_the_log_and_the_environment_is_the_given_one(tmp_path: Path) -> None:
    log_path = tmp_path / "new" / "echo.log"
    script = "import os, sys; print(os.environ['GREETING'], os.getcwd(), flush=True); sys.exit('e')"
    child = Child(
        "echo", python(script), log_path=log_path, env={"GREETING": "hello"}, cwd=tmp_path
    )
    with child:
        assert child.wait(20) == 1
    assert log_path.read_text() == f"hello {tmp_path}\ne\n"


def test_an_ended_part_fails_the_wait_at_once_with_status_and_last_line(tmp_path: Path) -> None:
    log_path = tmp_path / "part.log"
    script = "import sys; print('no model\\n\\tat java.lang.Thread.run'); sys.exit(3)"
    with Child("endpoint", python(script), log_path=log_path) as child:
        started = time.monotonic()
        with pytest.raises(PartDiedError) as caught:
            child.wait_ready(lambda: False, timeout_s=60)
        assert time.monotonic() - started < 30
    assert str(caught.value) == f"endpoint ended with status 3; see {log_path}: no model"
    assert (caught.value.status, caught.value.last_lines) == (3, ["no model"])


def test_a_killed_part_is_named_with_its_signal(tmp_path: Path) -> None:
    with Child("sleeper", ["sleep", "600"], log_path=tmp_path / "part.log") as child:
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(PartDiedError, match=r"sleeper ended by signal SIGKILL.*\(empty\)"):
            child.wait_ready(lambda: False, timeout_s=60)


def test_probe_errors_count_as_not_ready(tmp_path: Path) -> None:
    answers = iter([ConnectionRefusedError(), TimeoutError(), False, True])

    def probe() -> bool:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return bool(answer)

    with Child("sleeper", ["sleep", "600"], log_path=tmp_path / "part.log") as child:
        child.wait_ready(probe, timeout_s=20)
    assert next(answers, "all used") == "all used"


def test_a_part_that_is_never_ready_is_named(tmp_path: Path) -> None:
    with (
        Child("sleeper", ["sleep", "600"], log_path=tmp_path / "part.log") as child,
        pytest.raises(PartNotReadyError, match=r"sleeper not ready after 0\.2 s; see .*part\.log"),
    ):
        child.wait_ready(lambda: False, timeout_s=0.2)


@pytest.mark.parametrize("where", ["group", "own"])
def test_what_a_part_started_ends_with_it(tmp_path: Path, where: str) -> None:
    log_path = tmp_path / "part.log"
    with Child("parent", python(PARENT, where), log_path=log_path) as child:
        grandchild = int(first_line(log_path))
        leader = child.pid
    assert is_gone(leader)
    assert is_gone(grandchild)


def test_what_a_killed_part_left_behind_is_ended(tmp_path: Path) -> None:
    log_path = tmp_path / "part.log"
    child = Child("parent", python(PARENT, "group"), log_path=log_path)
    with child:
        grandchild = int(first_line(log_path))
        os.kill(child.pid, signal.SIGKILL)
        until(lambda: not child.is_running)
        assert not is_gone(grandchild)
    assert is_gone(grandchild)


def test_a_part_deaf_to_sigterm_is_killed_after_the_timeout(tmp_path: Path) -> None:
    log_path = tmp_path / "part.log"
    child = Child("stubborn", python(STUBBORN), log_path=log_path)
    child.start()
    pid = child.pid
    assert first_line(log_path) == "deaf"
    child.stop(timeout_s=0.2)
    assert is_gone(pid)


def test_a_stopped_part_has_not_died_and_can_start_again(tmp_path: Path) -> None:
    child = Child("sleeper", ["sleep", "600"], log_path=tmp_path / "part.log")
    child.stop()
    child.start()
    with pytest.raises(RuntimeError, match="started already"):
        child.start()
    child.stop()
    child.check()
    assert not child.is_running
    child.start()
    child.kill()
    child.kill()


def test_a_missing_program_is_named_before_anything_starts(tmp_path: Path) -> None:
    child = Child("part", ["no-such-program"], log_path=tmp_path / "part.log")
    with pytest.raises(FileNotFoundError, match="part: no program no-such-program"):
        child.start()
    stop_all([child])


def test_ctrl_c_while_stopping_still_ends_everything(tmp_path: Path) -> None:
    log_path = tmp_path / "part.log"
    child = Child("stubborn", python(STUBBORN), log_path=log_path)
    child.start()
    pid = child.pid
    assert first_line(log_path) == "deaf"
    threading.Timer(0.5, signal.raise_signal, [signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        child.stop(timeout_s=60)
    assert is_gone(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own service")
def test_a_part_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    script = textwrap.dedent(f"""
        import time
        from pathlib import Path
        from deploy.local.process import Child
        child = Child("sleeper", ["sleep", "600"], log_path=Path({str(tmp_path / "part.log")!r}))
        child.start()
        print(child.pid, flush=True)
        time.sleep(600)
    """)
    with subprocess.Popen(python(script), stdout=subprocess.PIPE, cwd=PROJECT_ROOT) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        # Until the program has taken the process over, the signal may not be asked for yet.
        until(lambda: psutil.Process(pid).name() == "sleep")
        parent.kill()
    until(lambda: is_gone(pid))


def test_last_lines_of_a_long_or_missing_log(tmp_path: Path) -> None:
    path = tmp_path / "part.log"
    assert last_lines(path) == []
    path.write_bytes(b"\xff" + b"x\n" * 100_000 + b"Caused by: no\n\tat a.B(C)\n\t... 3 more\n\n")
    assert last_lines(path, limit=2) == ["x", "Caused by: no"]
