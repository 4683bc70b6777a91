"""The manifest of a plan: before it runs, which gives the run its name, and when it has."""

import dataclasses
from importlib.metadata import version

from stresslev import provenance
from stresslev.config.load import Plan
from stresslev.identity import run_name
from stresslev.run import Outcome, summary
from stresslev.store.manifest import FINISHED, UNFINISHED, Manifest

#: What of the provenance must be the same for two runs to have the same numbers.
_SAME = ("code_hash", "stresslev_version", "jax", "numpy", "xarray", "python", "platform", "device")


def beginning(plan: Plan, devices: int) -> Manifest:
    """Of a run that has not begun. Its name is the plan's, and a digest of all that decides its numbers.

    Args: `devices` over which accounts will be dealt out.

    Raises:
      InputError: a data file that the plan names is not there.
    """
    known = provenance.attributes(plan, 0.0)
    known = {k: v for k, v in known.items() if k != "configuration"} | {"name": plan.name, "policy": plan.policy.name, "devices": devices}
    name = run_name(plan.name, known["configuration_hash"], *(known[key] for key in _SAME), version("jaxlib"), devices)
    return Manifest(run=name, status=UNFINISHED, scenarios={s.name: UNFINISHED for s in plan.scenarios}, provenance=known)


def ended(manifest: Manifest, outcome: Outcome) -> Manifest:
    """Of a run that has finished."""
    told = summary(outcome)
    provenance = manifest.provenance | told["provenance"]
    scenarios = dict.fromkeys(outcome.datasets, FINISHED)
    return dataclasses.replace(manifest, status=FINISHED, scenarios=scenarios, provenance=provenance, verdict=told["verdict"], error="")
