"""Tables in Markdown."""

from collections.abc import Iterable


def table(head: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
<<<<<<< HEAD
  """Returns a table with the header `head`, ending in a newline."""
  head = [*head]
  lines: list[Iterable[object]] = [head, ['---'] * len(head), *rows]
  return ''.join(f'| {" | ".join(map(str, line))} |\n' for line in lines)
=======
  """Returns a table of columns `head`, with a newline at its end."""
  columns = [str(column) for column in head]
  first, *others = (
    f'| {" | ".join(map(str, line))} |\n' for line in (columns, *rows)
  )
  return ''.join([first, '|---' * len(columns) + '|\n', *others])
>>>>>>> s1
