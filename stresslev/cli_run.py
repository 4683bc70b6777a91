"""The computing part of `stresslev run` and `rerun`: in one process or several, into a folder or a store; results appear whole, or not at all."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from stresslev import cache, cli, cli_print, policies, processes, report
from stresslev.contrast import inputs as contrast
from stresslev.contrast.last import change
from stresslev.contrast.reproduction import reproduction
from stresslev.errors import InputError, Problem
from stresslev.provenance import plan_of_result
from stresslev.report import words
from stresslev.report.inputs import read
from stresslev.results import RESULT_FILES
from stresslev.run import run_plan, save
from stresslev.sharding import Sharding
from stresslev.simulation import Progress, silent
from stresslev.store import manifest
from stresslev.store.record import beginning, ended
from stresslev.store.runs import RUN_FILES, find, is_run
from stresslev.store.unfinished import working
from stresslev.write import folder_atomically


@dataclass(frozen=True)
class Job:
    """What is to be computed and where it goes."""

    open_folder: Callable[[], AbstractContextManager[Path]]
    compute: Callable[[Progress, Sharding], object]  # to what has `breached`
    write: Callable[[object, Path, Progress], Exception | None]  # a defect of the report
    show: Callable[[object], None]


def write_report(folder: Path, baseline: Path | None = None) -> None:
    """Write the report of a folder; of a run, against a baseline or the run before it in its store. Raises InputError."""
    if report.is_comparison(folder):
        if baseline is not None:
            fix = "leave it out, or write the report of one policy's folder"
            raise InputError("command line", Problem("--baseline", str(baseline), "is for one run, not for a comparison of policies", fix))
        report.write(folder)
        return
    try:
        changed = change(folder, baseline)
    except InputError as error:
        if baseline is not None:
            raise
        _tell(f"the run before this one in its store cannot be held against it: {error}")
        changed = None
    report.write(folder, changed)


def check_baseline(plans, baseline: Path | None) -> None:
    """Refuse, before anything is computed, a baseline that cannot be one. Raises InputError."""
    if baseline is None:
        return
    if len(plans) > 1:
        fix = "leave one of them out, or write the report of one policy's folder later with stresslev report --baseline"
        raise InputError("command line", Problem("--baseline", str(baseline), "and several policies are two comparisons", fix))
    known = contrast.read(baseline).metrics
    names = [s.name for s in (*plans[0].given, *plans[0].generators)]
    if not set(names) & set(known):
        problem = Problem("--baseline", str(baseline), f"has none of the scenarios {words.listing(names)}", "name a run of the same suite")
        raise InputError("command line", problem)


def _write_report(folder: Path, out: Path, baseline: Path | None = None) -> Exception | None:
    """Write the report of a folder that will be `out`; a finished run is kept whatever happens to its picture, so a defect is handed back."""
    try:
        write_report(folder, baseline)
    except InputError as error:
        fix = f"the results are complete without it; write it later with: stresslev report {out}"
        return InputError(out / "report.html", [replace(p, fix=fix) for p in error.problems])
    except Exception as error:
        return error
    return None


def one(plan, out: Path, baseline: Path | None = None) -> Job:
    """A plan, into a folder; its report against a baseline, where there is one."""

    def write(outcome, folder: Path, progress: Progress) -> Exception | None:
        progress("report", 0, 1)
        save(outcome, folder)
        defect = _write_report(folder, out, baseline)
        progress("report", 1, 1)
        return defect

    return Job(
        open_folder=lambda: folder_atomically(out, RESULT_FILES),
        compute=lambda progress, sharding: run_plan(plan, progress, sharding),
        write=write,
        show=lambda outcome: cli_print.print_results(outcome.plan.title, outcome.metrics, outcome.described, outcome.judged, out),
    )


def several(plans, out: Path) -> Job:
    """Plans that differ in their policy, into a folder with a folder for each."""
    policies.check(plans)
    names = [p.policy.name for p in plans]

    def write(comparison, folder: Path, progress: Progress) -> Exception | None:
        policies.save(comparison, folder)
        defects = []
        for number, name in enumerate((*names, "")):
            progress("reports", number, len(names) + 1)
            defects.append(_write_report(folder / name, out / name))
        progress("reports", len(names) + 1, len(names) + 1)
        return next((d for d in defects if d is not None), None)

    return Job(
        open_folder=lambda: policies.folder_of(out, names),
        compute=lambda progress, sharding: policies.compare(plans, progress, sharding),
        write=write,
        show=lambda comparison: cli_print.print_comparison(comparison, out),
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


def check_store(plans, out: Path | None, count: int | None) -> None:
    """Refuse what a store cannot take. Raises InputError."""
    why = None
    if len(plans) > 1:
        why = "takes one policy at a time", "run each by itself and compare the runs with stresslev compare"
    elif out is not None:
        why = "and --out name two places", "leave one of them out"
    elif (count or 1) > 1 or processes.is_worker() or processes.place() is not None:
        why = "is for one process", "write with --out into a folder inside the store: it is listed there too"
    if why is not None:
        raise InputError("command line", Problem("--store", "", *why))


def stored(plan, store: Path, devices: int | None, fresh: bool, baseline: Path | None = None) -> int:
    """Run a plan into a store, or show what the store has of it already; the exit code.

    Scenarios that an earlier attempt has finished are taken up, and those that finish now are kept, whatever happens.
    """
    cache.enable()
    with cli._stoppable() as progress:
        sharding = processes.meet(None, devices)
        begun = beginning(plan, sharding.devices)
        out = store / begun.run
        if is_run(out) and not fresh:
            found = read(out)
            cli_print.print_results(found.title, {s.name: s.metrics for s in found.scenarios}, found.samples, found.judged, out)
            _tell(f"{begun.run} was in the store already; --fresh computes it anew")
            return cli.BREACHED if any(c.breached for c in found.judged) else cli.WITHIN
        with working(store, begun, fresh=fresh) as work, folder_atomically(out, RUN_FILES) as folder:
            try:
                outcome = run_plan(plan, progress, sharding, work)
            except KeyboardInterrupt:
                if work.manifest.finished:
                    _tell(f"{work.manifest.finished} of {len(plan.scenarios)} scenarios are kept; the same command takes them up")
                raise
            outcome = replace(outcome, attributes=outcome.attributes | {"wall_seconds": round(work.seconds, 2)})
            if work.manifest.resumed:
                _tell(f"taken up from an earlier attempt: {', '.join(work.manifest.resumed)}")
            progress("report", 0, 1)
            save(outcome, folder)
            defect = _write_report(folder, out, baseline)
            manifest.write(ended(work.manifest, outcome), folder)
            progress("report", 1, 1)
    cli_print.print_results(plan.title, outcome.metrics, outcome.described, outcome.judged, out)
    if defect is not None:
        raise defect
    return cli.BREACHED if outcome.breached else cli.WITHIN


def again(result: Path, out: Path, arguments: list[str], exact: bool) -> int:
    """Run what an earlier result says it ran into a folder, and say what came of its numbers; the exit code.

    Args: `exact`, whether other numbers make the exit code 1.
    """
    folder = find(result)
    plan, earlier = plan_of_result(folder), contrast.read(folder)
    code = execute(one(plan, out), arguments)
    if processes.is_worker() or code not in (cli.WITHIN, cli.BREACHED):
        return code
    same, told = reproduction(earlier, contrast.read(out))
    for line in told:
        _tell(line)
    return code if same or not exact else cli.BREACHED
