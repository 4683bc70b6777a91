"""The computing part of `stresslev run` and `rerun`: in this process, or in several; results appear whole, or not at all."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from stresslev import cache, cli, policies, processes, report
from stresslev.errors import InputError, Problem
from stresslev.results import RESULT_FILES
from stresslev.run import run_plan, save
from stresslev.sharding import Sharding
from stresslev.simulation import Progress, silent
from stresslev.write import folder_atomically


@dataclass(frozen=True)
class Job:
    """What is to be computed and where it goes."""

    open_folder: Callable[[], AbstractContextManager[Path]]
    compute: Callable[[Progress, Sharding], object]  # to what has `breached`
    write: Callable[[object, Path, Progress], Exception | None]  # a defect of the report
    show: Callable[[object], None]


def _write_report(folder: Path) -> Exception | None:
    """Write the report of a folder; a finished run is kept whatever happens to its picture, so a defect is handed back."""
    try:
        report.write(folder)
    except Exception as error:
        return error
    return None


def one(plan, out: Path) -> Job:
    """A plan, into a folder."""

    def write(outcome, folder: Path, progress: Progress) -> Exception | None:
        progress("report", 0, 1)
        save(outcome, folder)
        defect = _write_report(folder)
        progress("report", 1, 1)
        return defect

    return Job(
        open_folder=lambda: folder_atomically(out, RESULT_FILES),
        compute=lambda progress, sharding: run_plan(plan, progress, sharding),
        write=write,
        show=lambda outcome: cli._print_outcome(outcome, out),
    )


def several(plans, out: Path) -> Job:
    """Plans that differ in their policy, into a folder with a folder for each."""
    policies.check(plans)
    names = [p.policy.name for p in plans]

    def write(comparison, folder: Path, progress: Progress) -> Exception | None:
        policies.save(comparison, folder)
        defects = []
        for number, place in enumerate((*(folder / n for n in names), folder)):
            progress("reports", number, len(names) + 1)
            defects.append(_write_report(place))
        progress("reports", len(names) + 1, len(names) + 1)
        return next((d for d in defects if d is not None), None)

    return Job(
        open_folder=lambda: policies.folder_of(out, names),
        compute=lambda progress, sharding: policies.compare(plans, progress, sharding),
        write=write,
        show=lambda comparison: cli._print_comparison(comparison, out),
    )


class _Tried(Exception):
    """The folder can be written."""


def _tell(line: str) -> None:
    cli.error_console.print(line, highlight=False, markup=False, soft_wrap=True)


def execute(job: Job, arguments: list[str], devices: int | None = None, count: int | None = None) -> int:
    """Run a job here, or have it run by several processes; the exit code.

    Args: `arguments` of the command line, for the processes; `devices` of each; `count` of processes on this machine. A launcher's environment
    (`processes.place`) says that there are others already.
    """
    here = processes.place()
    if processes.is_worker() or (here is None and (count or 1) == 1):
        return _compute(job, here, devices)
    if here is not None and count is not None:
        fix = f"leave it out, or unset {processes.COORDINATOR}"
        raise InputError("command line", Problem("--processes", str(count), "is for processes that the command starts itself", fix))
    if here is None or here.process == 0:
        # what is wrong with the place is said before the run
        with suppress(_Tried), job.open_folder():
            raise _Tried
    return processes.watch(processes.local(count) if here is None else [here], arguments, _tell)


def _compute(job: Job, here: processes.Place | None, devices: int | None) -> int:
    """Compute and write into a folder that appears only when everything is written; one of several processes does once all have computed."""
    cache.enable()
    with ExitStack() as stack:
        folder = stack.enter_context(job.open_folder()) if here is None else None
        progress = stack.enter_context(cli._stoppable())
        sharding = processes.meet(here, devices)
        leads = here is None or here.leads
        found = job.compute(progress if leads else silent, sharding)
        if here is not None:
            processes.part()
        if leads:
            defect = job.write(found, stack.enter_context(job.open_folder()) if folder is None else folder, progress)
    if leads:
        job.show(found)
        if defect is not None:
            raise defect
    return cli.BREACHED if found.breached else cli.WITHIN
