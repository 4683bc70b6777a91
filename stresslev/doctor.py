"""What this installation is, whether it computes correctly, and what a run would need."""

import importlib.metadata
import platform
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

PACKAGES = ("stresslev", "jax", "jaxlib", "numpy", "xarray", "h5netcdf", "h5py", "pyarrow", "pydantic", "typer", "rich", "plotly")


@dataclass(frozen=True)
class Check:
    """One question put to the installation."""

    name: str
    ok: bool
    found: str


def versions() -> dict[str, str]:
    """Version of every package a run depends on; 'not installed' where there is none."""
    out = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            out[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            out[name] = "not installed"
    return out


def miscompilation(rows: int = 32769) -> Check:
    """The reproducer of jax-ml/jax issue 39103: on the CPU, jax 0.10.2 gets rows of a vmapped matrix-vector product wrong when it is reduced."""
    rng = np.random.default_rng(0)
    matrix, data = rng.normal(size=(3, 3)), rng.normal(size=(rows, 3))
    with jax.enable_x64(True):
        m, x = jnp.asarray(matrix), jnp.asarray(data)
        got = np.asarray(jax.jit(jax.vmap(lambda r: jnp.sum((m @ r) ** 2)))(x))
    want = ((data @ matrix.T) ** 2).sum(axis=1)
    wrong = int(np.sum(~np.isclose(got, want, rtol=1e-9)))
    return Check("vmapped matrix-vector product, reduced (jax issue 39103)", wrong == 0, f"{wrong} of {rows} rows wrong")


def precision() -> list[Check]:
    """Whether each precision computes in the width it says, against sums known exactly."""
    checks = []
    for bits, eps in ((32, np.finfo(np.float32).eps), (64, np.finfo(np.float64).eps)):
        with jax.enable_x64(bits == 64):
            dtype = jnp.float64 if bits == 64 else jnp.float32
            one = jnp.ones((), dtype)
            seen = float(jax.jit(lambda x, e=eps: (x + e) - x)(one))
        checks.append(Check(f"float{bits}", seen == eps, f"1 + eps - 1 = {seen:.3g}, expected {eps:.3g}"))
    return checks


def devices() -> list[str]:
    """The devices jax sees, the default first."""
    return [f"{d.platform}: {d.device_kind}" for d in jax.devices()]
