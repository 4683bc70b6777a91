"""The built wheel works away from the checkout, with its scenarios inside."""

import os
import subprocess
import sys
import zipfile

from tests.conftest import ROOT


def test_the_wheel_carries_its_scenarios_and_runs_elsewhere(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run([*build, "--wheel-dir", str(tmp_path), str(ROOT)], check=True)
    [wheel] = tmp_path.glob("stresslev-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    shipped = {str(p.relative_to(ROOT / "scenarios")) for p in (ROOT / "scenarios").rglob("*.toml")}
    assert {f"stresslev/scenarios/{n}" for n in shipped} <= set(names)
    assert not any(n.startswith(("tests/", "experiments/")) for n in names)
    place = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(place)
    code = "import stresslev, sys; assert stresslev.__file__.startswith(sys.argv.pop(1)), stresslev.__file__; from stresslev.cli import main; main()"
    command = [sys.executable, "-c", code, str(place), "run", "gap_35_half_depth", "--accounts", "1000", "--out", str(tmp_path / "out")]
    environment = os.environ | {"PYTHONPATH": str(place), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "report.html").is_file()
