"""Counts the collectives of a compiled program from its HLO text."""

import collections
import re
from collections.abc import Iterator

KINDS = (
  'all-gather',
  'all-reduce',
  'reduce-scatter',
  'all-to-all',
  'collective-permute',
)
_BYTES = {
  'pred': 1, 's8': 1, 'u8': 1, 's16': 2, 'u16': 2, 's32': 4, 'u32': 4,
  's64': 8, 'u64': 8, 'bf16': 2, 'f16': 2, 'f32': 4, 'f64': 8,
}  # fmt: skip
_INSTRUCTION = re.compile(r'= (\(.*?\)|\S+) ([a-z][\w-]*)\(')
_ARRAY = re.compile(r'\b([a-z]+\d*)\[([\d,]*)\]')
_CALLED = re.compile(
  r'(?:calls|to_apply|true_computation|false_computation)=%([\w.-]+)'
)


def collectives(text: str) -> dict[str, tuple[int, int]]:
  """Returns the count and bytes of each kind of collective in one execution.

  `text` is optimized HLO from `compiled.as_text()`. The bytes are the size of
  the unsharded array: the result of a gather, or the input of a scatter. Every
  iteration of a loop counts if the number of iterations is known.
  """
  totals: dict[str, tuple[int, int]] = collections.defaultdict(lambda: (0, 0))
  computations, entry = _computations(text)
  for kind, size, times in _walk(computations, entry, 1):
    count, total = totals[kind]
    totals[kind] = (count + times, total + times * size)
  return dict(totals)


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
  """Returns the lines of each computation by name, and the entry's name."""
  computations: dict[str, list[str]] = {}
  entry, lines = '', []
  for line in text.splitlines():
    match = re.match(r'(ENTRY )?%?([\w.-]+) \(.*\{$', line)
    if match:
      lines = computations[match[2]] = []
      entry = match[2] if match[1] else entry
    else:
      lines.append(line)
  return computations, entry


def _walk(
  computations: dict[str, list[str]], name: str, times: int
) -> Iterator[tuple[str, int, int]]:
  """Yields (kind, bytes, executions) of each collective in a computation."""
  for line in computations.get(name, ()):
    match = _INSTRUCTION.search(line)
    if not match:
      continue
    kind = match[2].removesuffix('-start')
    if kind in KINDS:
      # On TPUs, a fusion named all-reduce-scatter is a reduce-scatter.
      if kind == 'all-reduce' and 'all-reduce-scatter' in name:
        kind = 'reduce-scatter'
      yield kind, _size(match, line), times
    elif kind == 'while':
      body = re.findall(r'body=%([\w.-]+)', line)[0]
      yield from _walk(computations, body, times * _trips(computations, line))
    elif kind == 'conditional':
      branches = re.search(r'branch_computations=\{([^}]*)\}', line)
      names = re.findall(r'%([\w.-]+)', branches[1] if branches else '')
      for branch in names or _CALLED.findall(line):
        yield from _walk(computations, branch, times)
    else:
      for called in _CALLED.findall(line):
        yield from _walk(computations, called, times)


def _size(match: re.Match, line: str) -> int:
  """Returns the bytes of the unsharded array that a collective handles."""
  arrays = []
  for dtype, shape in _ARRAY.findall(match[1]):
    size = _BYTES.get(dtype, 1)
    for side in filter(None, shape.split(',')):
      size *= int(side)
    arrays.append(size)
  if match[2] in ('all-gather-start', 'collective-permute-start'):
    return max(arrays)  # the result tuple also contains the operand
  factor = 1
  if match[2].startswith('reduce-scatter'):  # the result is a slice
    group = re.search(r'replica_groups=\{\{([\d,]*)\}', line)
    iota = re.search(r'replica_groups=\[\d+,(\d+)\]', line)
    if group:
      factor = group[1].count(',') + 1
    elif iota:
      factor = int(iota[1])
  return factor * sum(arrays)


def _trips(computations: dict[str, list[str]], line: str) -> int:
  """Returns the number of iterations of a loop; 1 if it is unknown."""
  match = re.search(r'known_trip_count"?:\{"?n"?:"?(\d+)', line)
  if match:
    return int(match[1])
  condition = re.findall(r'condition=%([\w.-]+)', line)[0]
  constants = [
    int(number)
    for text in computations[condition]
    for number in re.findall(r's32\[\]\S* constant\((\d+)\)', text)
  ]
  return constants[0] if len(constants) == 1 else 1
