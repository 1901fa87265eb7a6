"""Tables in Markdown."""

from collections.abc import Iterable


def table(head: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
  """Returns a table with the header `head`, ending in a newline."""
  head = [*head]
  lines: list[Iterable[object]] = [head, ['---'] * len(head), *rows]
  return ''.join(f'| {" | ".join(map(str, line))} |\n' for line in lines)
