"""Read CSV and Parquet tables, with errors a user can act on."""

from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet

from stresslev.errors import InputError, Problem


def is_parquet(path: Path) -> bool:
    """Whether the name says Parquet; everything else is read as CSV (plain or gzipped)."""
    return path.suffix.lower() in (".parquet", ".pq")


def read_table(path: str | Path, *, text: bool = False) -> pa.Table:
    """A CSV (plain or .gz) or Parquet file.

    Args:
      path: the file.
      text: read every CSV column as text, so that the caller can say which cell is wrong.

    Raises:
      InputError: missing, unreadable or malformed file.
    """
    path = Path(path)
    table = _read(path, text)
    twice = sorted({c for c in table.column_names if table.column_names.count(c) > 1})
    if twice:
        raise InputError(path, Problem(f"column {twice[0]}", "", "appears twice", "remove one of the two"))
    return table


def _read(path: Path, text: bool) -> pa.Table:
    try:
        if is_parquet(path):
            return pa_parquet.read_table(path)
        options = None
        if text:
            with pa_csv.open_csv(path) as reader:
                names = reader.schema.names
            options = pa_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), null_values=[""], strings_can_be_null=True)
        return pa_csv.read_csv(path, convert_options=options)
    except FileNotFoundError:
        raise InputError(path, Problem("file", "", "does not exist", "check the path; it is relative to the working folder")) from None
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            path, Problem("file", "", f"cannot be read as {'Parquet' if is_parquet(path) else 'CSV'}: {reason}", "check the file")
        ) from None
