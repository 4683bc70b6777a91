"""The report: one self-contained HTML file made from the files of a run."""

from pathlib import Path

from stresslev.report.inputs import read
from stresslev.report.page import document
from stresslev.write import atomically


def write(folder: Path) -> None:
    """Read `result.nc` and `summary.json` in a folder and write `report.html` beside them.

    Raises:
      InputError: a file is missing, unreadable or not of a run, or the report cannot be written.
    """
    folder = Path(folder)
    html = document(read(folder))
    with atomically(folder / "report.html") as path:
        path.write_text(html, encoding="utf-8")
