"""The report: one self-contained HTML file made from the files of a run, or of a comparison of policies."""

from pathlib import Path

from stresslev.report import comparison, page
from stresslev.report.comparison_inputs import FILE, read_comparison
from stresslev.report.inputs import read
from stresslev.write import atomically


def write(folder: Path) -> None:
    """Write `report.html` into a folder that holds a run (`result.nc` and `summary.json`) or a comparison (`comparison.json` and runs).

    Raises:
      InputError: a file is missing, unreadable or not as a run writes it, or the report cannot be written.
    """
    folder = Path(folder)
    html = comparison.document(read_comparison(folder)) if (folder / FILE).is_file() else page.document(read(folder))
    with atomically(folder / "report.html") as path:
        path.write_text(html, encoding="utf-8")
