"""The report: one self-contained HTML file made from the files of a run, or of a comparison of policies."""

from pathlib import Path

from stresslev.report import comparison, page
from stresslev.report.comparison_inputs import FILE, read_comparison
from stresslev.report.inputs import read
from stresslev.write import atomically


def is_comparison(folder: Path) -> bool:
    """Whether a folder holds a comparison of policies."""
    return (Path(folder) / FILE).is_file()


def write(folder: Path, change: dict | None = None) -> None:
    """Write `report.html` into a folder that holds a run (`result.nc` and `summary.json`) or a comparison (`comparison.json` and runs).

    Args: `change` of a run against an earlier one, as `contrast.last.change` gives it.

    Raises:
      InputError: a file is missing, unreadable or not as a run writes it, or the report cannot be written.
    """
    folder = Path(folder)
    html = comparison.document(read_comparison(folder)) if is_comparison(folder) else page.document(read(folder), change)
    with atomically(folder / "report.html") as path:
        path.write_text(html, encoding="utf-8")
