"""Tables in Markdown."""

from collections.abc import Iterable


def table(head: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
  """Returns a table with the header `head`, ending in a newline."""
  columns = [str(column) for column in head]
  first, *others = (
    f'| {" | ".join(map(str, line))} |\n' for line in (columns, *rows)
  )
  return ''.join([first, '|---' * len(columns) + '|\n', *others])
