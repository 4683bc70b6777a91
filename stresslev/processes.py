"""Several processes in one run, each with its share of the accounts: started here, or by a launcher such as Slurm or Kubernetes.

A process that is lost must end the run, soon and in words, whatever it does to the others: their next message to it may fail, or never return.
So the command that a user or a launcher starts does not compute. It starts the workers and watches them: `stresslev run --processes N` has N of them
on this machine, a command started by a launcher has one. A worker leaves word of how it ended; one that ends without a word was lost.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stresslev.errors import InputError, Problem

if TYPE_CHECKING:  # jax is not imported where nothing is computed
    from stresslev.sharding import Sharding

#: Set by whoever starts several commands that are to be one run: HOST:PORT at which process 0 can be reached, or "auto" to ask Slurm or Open MPI.
COORDINATOR = "STRESSLEV_COORDINATOR"
#: Which of how many this is, unless the coordinator is "auto".
PROCESS, PROCESSES = "STRESSLEV_PROCESS", "STRESSLEV_PROCESSES"
#: Set for workers: the file in which to leave word.
WORD = "STRESSLEV_WORD"

#: Seconds after which a process that sends no sign of life is given up, and for which processes wait for each other at the start and at the end.
HEARTBEAT, START, END = 20, 300, 60
#: Seconds that the others get to say how they ended after one has failed, and after they were asked to end.
_GRACE, _PATIENCE = 1.0, 5.0
_POLL = 0.05

#: Exit code of a run that lost a process.
LOST = 70


def _asked(name: str, fix: str) -> int:
    text = os.environ.get(name, "")
    if not text.isdigit():
        raise InputError("environment", Problem(name, repr(text) if text else "", "is not a number" if text else "is missing", fix))
    return int(text)


@dataclass(frozen=True)
class Place:
    """Which of how many processes this is; None where only the launcher knows."""

    coordinator: str
    process: int | None
    processes: int | None

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes results and shows progress. Known once it has joined the others."""
        if self.process is not None:
            return self.process == 0
        import jax

        return jax.process_index() == 0

    def environment(self) -> dict[str, str]:
        """As it is told to a worker."""
        told = {COORDINATOR: self.coordinator}
        return told if self.process is None else told | {PROCESS: str(self.process), PROCESSES: str(self.processes)}

    def __str__(self) -> str:
        return "a process" if self.process is None else f"process {self.process} of {self.processes}"


def place() -> Place | None:
    """What the environment says about other processes; None without any. Raises InputError."""
    coordinator = os.environ.get(COORDINATOR)
    if not coordinator:
        return None
    if coordinator == "auto":
        return Place(coordinator, None, None)
    fix = f"set {PROCESS} and {PROCESSES} besides {COORDINATOR}, or {COORDINATOR}=auto under Slurm or Open MPI"
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise InputError("environment", Problem(COORDINATOR, repr(coordinator), "is not HOST:PORT", fix))
    found = Place(coordinator, _asked(PROCESS, fix), _asked(PROCESSES, fix))
    if found.process >= found.processes:
        raise InputError("environment", Problem(PROCESS, str(found.process), f"is not below {PROCESSES}", "count processes from 0"))
    return found


def is_worker() -> bool:
    """Whether this process computes, watched by another."""
    return WORD in os.environ


def local(processes: int) -> list[Place]:
    """Places of workers on this machine, at a port that is free now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [Place(f"127.0.0.1:{port}", k, processes) for k in range(processes)]


# In a worker


def _keep_stdout() -> None:
    """Keep the output stream for what we say ourselves: gloo writes to it too."""
    sys.stdout.flush()
    ours = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    sys.stdout = os.fdopen(ours, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)


def join(here: Place, devices: int | None) -> None:
    """Meet the other processes; before anything is computed. Args: `devices` of each process, which on one machine must not be those of another."""
    import jax

    loopback = here.coordinator.startswith("127.0.0.1:")
    if loopback:
        jax.config.update("jax_check_proxy_envs", False)  # nothing goes through a proxy
    mine = None if not loopback else range(here.process * (devices or 1), (here.process + 1) * (devices or 1))
    known = {}
    if here.process is not None:
        known = {"coordinator_address": here.coordinator, "num_processes": here.processes, "process_id": here.process}
        known |= {"cluster_detection_method": "deactivate"}
    if loopback:
        known |= {"coordinator_bind_address": here.coordinator}  # nobody else is to reach it
    limits = {"initialization_timeout": START, "heartbeat_timeout_seconds": HEARTBEAT, "shutdown_timeout_seconds": END}
    try:
        jax.distributed.initialize(local_device_ids=mine, **known, **limits)
    except ValueError as error:  # no launcher that JAX knows
        fix = f"set {COORDINATOR}=HOST:PORT, {PROCESS} and {PROCESSES}"
        raise InputError("environment", Problem(COORDINATOR, repr(here.coordinator), f"does not do: {error}", fix)) from None


def part() -> None:
    """Part from the others when all has been computed: what is left, such as writing results, is up to one of them."""
    import jax

    jax.distributed.shutdown()


def meet(here: Place | None, devices: int | None) -> "Sharding":
    """Join the other processes, if there are any, and say over which devices accounts are dealt out; before anything is computed.

    Args: `devices` of each process; None: all of a GPU machine that the process sees, one on the CPU.

    Raises:
      InputError: there are not so many.
    """
    import jax

    from stresslev.sharding import Sharding

    if devices is not None and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        # what one processor stands in for; GPUs are as many as there are, and so is everything once something has been computed
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", devices)
    if here is not None:
        watch_parent()
        _keep_stdout()
        join(here, devices)
    seen = jax.local_devices()
    wanted = devices or (1 if seen[0].platform == "cpu" else len(seen))
    if wanted > len(seen):
        raise InputError("command line", Problem("--devices", str(wanted), f"is more than the {len(seen)} there are", "ask for fewer"))
    by_process = [[d for d in jax.devices() if d.process_index == k][:wanted] for k in range(jax.process_count())]
    return Sharding.over([d for several in by_process for d in several])


def watch_parent() -> None:
    """End with whoever watches: a worker that nobody watches must not go on."""
    parent = os.getppid()

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(LOST)

    threading.Thread(target=look, daemon=True).start()


def leave_word(code: int, error: str = "") -> None:
    """Say how it ended, and end: what JAX would still do at exit is to wait for processes that may be gone."""
    Path(os.environ[WORD]).write_text(json.dumps({"code": code, "error": error}), encoding="utf-8")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


# In the process that watches


@dataclass
class _Worker:
    place: Place
    process: subprocess.Popen
    word: Path
    errors: Path | None  # what it wrote to its error stream, where that is not shown

    def said(self) -> dict | None:
        """Its word, once it has ended; None without one."""
        try:
            return json.loads(self.word.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def end(self) -> str:
        """How it ended without a word."""
        code = self.process.returncode
        if code < 0:
            why = ", as the system does when memory runs out" if code == -signal.SIGKILL else ""
            return f"was killed by signal {-code} ({signal.Signals(-code).name}{why})"
        return f"ended with code {code} and without a result"


def _start(places: Sequence[Place], arguments: Sequence[str], folder: Path) -> Iterator[_Worker]:
    for number, where in enumerate(places):
        word, errors = folder / f"word-{number}", None if number == 0 else folder / f"errors-{number}"
        # this very package, wherever the command was started
        package = os.pathsep.join(filter(None, (str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH"))))
        told = os.environ | where.environment() | {WORD: str(word), "PYTHONPATH": package}
        if where.coordinator.startswith("127.0.0.1:"):
            told |= {name: ",".join(filter(None, (os.environ.get(name), "127.0.0.1"))) for name in ("no_proxy", "NO_PROXY")}
        with contextlib.ExitStack() as stack:
            stream = None if errors is None else stack.enter_context(open(errors, "wb"))
            command = [sys.executable, "-P", "-m", "stresslev", *arguments]
            # a session of its own: an interrupt from the terminal comes here, and is passed on
            out = None if number == 0 else subprocess.DEVNULL
            yield _Worker(where, subprocess.Popen(command, env=told, stdout=out, stderr=stream, start_new_session=True), word, errors)


def _stop(workers: Sequence[_Worker]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        running = [w for w in workers if w.process.poll() is None]
        for w in running:
            w.process.send_signal(number)
        until = time.monotonic() + _PATIENCE
        while any(w.process.poll() is None for w in running) and time.monotonic() < until:
            time.sleep(_POLL)


def _verdict(workers: Sequence[_Worker], ended: Sequence[_Worker], tell) -> int:
    """Exit code of the run, once those have `ended` by themselves; `tell` is given what there is to say."""
    silent = [w for w in ended if w.said() is None]
    # JAX aborts a process that has lost another: that is not the one to name
    silent = [w for w in silent if w.process.returncode != -signal.SIGABRT] or silent
    other = "; most likely another process of the run was lost" if len(workers) == 1 else ""
    failed = next(((w, w.said()["error"]) for w in ended if w.said() is not None and w.said()["error"]), None)
    if silent:
        for w in silent:
            tell(f"error: {w.place} {w.end()}{other if w.process.returncode != -signal.SIGKILL else ''}")
    elif failed is not None:
        tell(f"error: {failed[0].place} failed: {failed[1]}{other}")
    if silent or failed is not None:
        tell("the run was stopped; nothing was written")
        return LOST
    if workers[0] not in ended and ended[0].errors is not None:
        # what the first process did not come to say
        tell(ended[0].errors.read_text(encoding="utf-8", errors="replace").rstrip())
    return max(w.said()["code"] for w in ended)


def watch(places: Sequence[Place], arguments: Sequence[str], tell: Callable[[str], None]) -> int:
    """Run the command in a worker for each place and wait for them; when one is lost or fails, end the others.

    Args: `arguments` of the command line; `tell` shows a line to the user.

    Returns: the exit code of the run, `LOST` when a process was lost.
    """

    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    workers: list[_Worker] = []
    with tempfile.TemporaryDirectory(prefix="stresslev-") as folder:
        try:
            for worker in _start(places, arguments, Path(folder)):
                workers.append(worker)
            wait = None
            while any(w.process.poll() is None for w in workers):
                bad = [w for w in workers if w.process.poll() is not None and (w.said() is None or w.process.returncode not in (0, 1))]
                if bad and wait is None:
                    # whatever ends one process by a rule ends all; one that was lost is named before the others complain of it
                    lost = any(w.said() is None or w.said()["error"] for w in bad)
                    wait = time.monotonic() + (_GRACE if lost else _PATIENCE)
                if wait is not None and time.monotonic() > wait:
                    break
                time.sleep(_POLL)
            ended = [w for w in workers if w.process.poll() is not None]
            _stop(workers)
            return _verdict(workers, ended, tell)
        finally:
            _stop(workers)
            signal.signal(signal.SIGTERM, before)
