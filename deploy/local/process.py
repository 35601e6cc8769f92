"""Child processes that never outlive the run.

Each part of the laptop's AWS (emulator, endpoint, JobManager, TaskManager) is a `Child`: a
process in a session of its own, so that Ctrl-C in the terminal reaches only the parent, which
then ends its children in order. What the part starts itself (the TaskManager's Python workers)
ends with it.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil

_POLL_S = 0.1
_KILL_TIMEOUT_S = 5.0
_TAIL_BYTES = 16_384

# Runs in the child, before the part's own program takes the process over. An interpreter of its
# own rather than a `preexec_fn`, which may deadlock when the parent has threads. The parent may
# be gone before the signal is asked for, hence the comparison.
_DIE_WITH_PARENT = """\
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""

_handed_out: set[int] = set()
_handed_out_lock = threading.Lock()


class PartError(RuntimeError):
    """A part of the laptop's AWS failed; the message names it and its log."""


class PartDiedError(PartError):
    """A part ended although nobody asked it to.

    Attributes
    ----------
    name
        The part.
    status
        Its exit status; negative: the signal that ended it.
    log_path
        Its log.
    last_lines
        The end of that log, at most ten lines, stack frames left out.
    """

    def __init__(self, name: str, status: int, log_path: Path):
        self.name = name
        self.status = status
        self.log_path = log_path
        self.last_lines = last_lines(log_path)
        how = f"by signal {_signal_name(-status)}" if status < 0 else f"with status {status}"
        last = self.last_lines[-1] if self.last_lines else "(empty)"
        super().__init__(f"{name} ended {how}; see {shown(log_path)}: {last}")


class PartNotReadyError(PartError):
    """A part runs, but did not become ready in time."""

    def __init__(self, names: Sequence[str], timeout_s: float, log_paths: Sequence[Path]):
        logs = ", ".join(shown(path) for path in log_paths)
        super().__init__(f"{' and '.join(names)} not ready after {timeout_s:g} s; see {logs}")


# Below those that systems give to the near end of a connection: one of these would be taken again
# before its server is up.
_PORTS = range(10_000, 32_000)


def free_port(preferred: int) -> int:
    """Return a TCP port of 127.0.0.1 on which nothing listens.

    Parameters
    ----------
    preferred
        Returned when it is free and was not handed out before.

    Returns
    -------
    int
        A port; never the same one twice within this process.
    """
    with _handed_out_lock:
        port = preferred
        while port in _handed_out or not _is_free(port):
            port = random.choice(_PORTS)
        _handed_out.add(port)
        return port


def _is_free(port: int) -> bool:
    # Connecting finds a server bound to all addresses, which some systems let one bind beside.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as caller:
        caller.settimeout(1)
        if caller.connect_ex(("127.0.0.1", port)) == 0:
            return False
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as server:
        # Connections of the last run may still be in TIME_WAIT.
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class Child:
    """A process that ends with the one that started it, together with all it started.

    On Linux the kernel sends it SIGTERM when the thread that called `start` ends, so call
    `start` from the main thread. Elsewhere a killed parent leaves it behind.

    Parameters
    ----------
    name
        What messages call it.
    argv
        The program and its arguments.
    log_path
        Takes its standard output and error, appended; the directory is created.
    env
        Its whole environment; that of this process by default.
    cwd
        Its working directory.

    Examples
    --------
    >>> import tempfile
    >>> log_path = Path(tempfile.mkdtemp()) / "sleeper.log"
    >>> with Child("sleeper", ["sleep", "60"], log_path=log_path) as sleeper:
    ...     sleeper.is_running
    True
    >>> sleeper.is_running
    False
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        log_path: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ):
        self.name = name
        self.argv = list(argv)
        self.log_path = log_path
        self._env = None if env is None else dict(env)
        self._cwd = cwd
        self._popen: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Child:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process id of the program itself.

        Raises
        ------
        RuntimeError
            When it was not started, or was stopped.
        """
        if self._popen is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._popen.pid

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._popen is not None and self._popen.poll() is None

    def start(self) -> None:
        """Start it.

        Raises
        ------
        FileNotFoundError
            When the program does not exist.
        RuntimeError
            When it was started already; stop it first, also when it ended by itself.
        """
        if self._popen is not None:
            raise RuntimeError(f"{self.name} was started already")
        if shutil.which(self.argv[0]) is None:
            raise FileNotFoundError(f"{self.name}: no program {self.argv[0]}")
        argv = self.argv
        if sys.platform == "linux":
            interpreter = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT]
            argv = [*interpreter, str(os.getpid()), *self.argv]
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._popen = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
                cwd=self._cwd,
                start_new_session=True,
            )

    def check(self) -> None:
        """Do nothing while it runs, or when it was never started or was stopped.

        Raises
        ------
        PartDiedError
            When it ended by itself.
        """
        status = None if self._popen is None else self._popen.poll()
        if status is not None:
            raise PartDiedError(self.name, status, self.log_path)

    def wait(self, timeout_s: float) -> int:
        """Wait until it ends by itself.

        Returns
        -------
        int
            Its exit status; negative: the signal that ended it.

        Raises
        ------
        RuntimeError
            When it was not started, or was stopped.
        TimeoutError
            When it still runs after `timeout_s`; it is left running.
        """
        if self._popen is None:
            raise RuntimeError(f"{self.name} was not started")
        try:
            return self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.name} still runs after {timeout_s:g} s") from None

    def wait_ready(self, probe: Callable[[], bool], timeout_s: float) -> None:
        """Wait until `probe` returns true; see `wait_ready`."""
        wait_ready([self], probe, timeout_s)

    def stop(self, timeout_s: float = 10.0) -> None:
        """End it and all it started: SIGTERM, then, after `timeout_s`, SIGKILL.

        Returns when nothing of it is left. Does nothing when it was never started.
        """
        stop_all([self], timeout_s)

    def kill(self) -> None:
        """End it and all it started at once, with SIGKILL."""
        stop_all([self], 0.0)


def wait_ready(children: Sequence[Child], probe: Callable[[], bool], timeout_s: float) -> None:
    """Wait until `probe` returns true, as long as all of `children` run.

    Parameters
    ----------
    children
        The parts that must be alive for the probe to succeed.
    probe
        Called every 0.1 s; it must bound its own waits. An `OSError` (connection refused,
        time-out, an HTTP error of urllib) counts as false.
    timeout_s
        How long to wait, in seconds.

    Raises
    ------
    PartDiedError
        At once, when one of the children has ended.
    PartNotReadyError
        After `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        for child in children:
            child.check()
        with contextlib.suppress(OSError):
            if probe():
                # What answered may be a stranger on the port of a child that could not bind it.
                for child in children:
                    child.check()
                return
        if time.monotonic() > deadline:
            names = [child.name for child in children]
            raise PartNotReadyError(names, timeout_s, [child.log_path for child in children])
        time.sleep(_POLL_S)


def stop_all(children: Sequence[Child], timeout_s: float = 10.0) -> None:
    """End several children at once: signal all, then wait for all together.

    Parameters
    ----------
    children
        What to end, with all that these started. Those that never ran are passed over.
    timeout_s
        How long they may take after SIGTERM, together, in seconds, before SIGKILL; 0: none.

    Raises
    ------
    KeyboardInterrupt
        When Ctrl-C arrived meanwhile; everything was ended with SIGKILL then.
    """
    offspring: list[psutil.Process] = []
    started = [child._popen for child in children if child._popen is not None]
    try:
        # From here on `check` is silent: that they end is no news.
        for child in children:
            child._popen = None
        # Before the first signal: what left the session can be found only through its parent.
        offspring = _offspring(started)
        if timeout_s > 0:
            for survivor in _survivors(started, offspring):
                with contextlib.suppress(psutil.Error):
                    survivor.terminate()
            deadline = time.monotonic() + timeout_s
            while _survivors(started, offspring) and time.monotonic() < deadline:
                time.sleep(_POLL_S / 2)
    finally:
        with _without_interrupts():
            deadline = time.monotonic() + _KILL_TIMEOUT_S
            while survivors := _survivors(started, offspring):
                for survivor in survivors:
                    with contextlib.suppress(psutil.Error):
                        survivor.kill()
                if time.monotonic() > deadline:
                    break  # the kernel holds it; waiting longer would not help
                time.sleep(_POLL_S / 2)


def _offspring(started: Sequence[subprocess.Popen[bytes]]) -> list[psutil.Process]:
    found = []
    for process in started:
        with contextlib.suppress(psutil.Error):
            if process.poll() is None:
                found += psutil.Process(process.pid).children(recursive=True)
    return found


def _survivors(
    started: Sequence[subprocess.Popen[bytes]], offspring: Sequence[psutil.Process]
) -> list[psutil.Process]:
    """Return what still runs of `offspring` and of the sessions of `started`."""
    for process in started:
        process.poll()  # reaps it
    sessions = {process.pid for process in started}
    alive = {process.pid: process for process in offspring}
    for pid in psutil.pids():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getsid(pid) in sessions:
                alive[pid] = psutil.Process(pid)
    return [process for process in alive.values() if _is_alive(process)]


def _is_alive(process: psutil.Process) -> bool:
    # An orphan that has ended may wait as a zombie for an init that never reaps it.
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def last_lines(log_path: Path, limit: int = 10) -> list[str]:
    """Return the last lines of a log that say something.

    Blank lines and the frames of Java stack traces are left out.

    Parameters
    ----------
    log_path
        A text file; one that is missing counts as empty.
    limit
        How many lines at most.
    """
    try:
        with log_path.open("rb") as log:
            log.seek(max(0, log_path.stat().st_size - _TAIL_BYTES))
            text = log.read().decode(errors="replace")
    except OSError:
        return []
    lines = (line.rstrip() for line in text.splitlines())
    return [line for line in lines if line and not is_stack_frame(line)][-limit:]


def is_stack_frame(line: str) -> bool:
    r"""Return whether a line is a frame of a Java stack trace.

    Examples
    --------
    >>> is_stack_frame("\tat java.base/java.lang.Thread.run(Thread.java:840)")
    True
    >>> is_stack_frame("Caused by: java.net.BindException: Address already in use")
    False
    """
    return re.match(r"\s+(at |\.\.\. \d+ (more|common))", line) is not None


def shown(path: Path) -> str:
    """Return a path as messages show it: relative where it lies below the working directory."""
    with contextlib.suppress(ValueError):
        return str(path.absolute().relative_to(Path.cwd()))
    return str(path)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
