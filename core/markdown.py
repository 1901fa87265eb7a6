"""Tables in Markdown."""

from collections.abc import Iterable


def table(head: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
  """Returns a table with the header `head` and a newline at the end."""
  columns = [str(column) for column in head]
  header, *lines = (
    f'| {" | ".join(map(str, line))} |\n' for line in (columns, *rows)
  )
  return ''.join([header, '|---' * len(columns) + '|\n', *lines])
