import pytest

from core.overlap import one_ahead


@pytest.mark.parametrize('count', [0, 1, 2, 5])
def test_the_next_is_started_before_one_is_used(count):
  events = []

  def start(i):
    events.append(('start', i))
    return i

  for i in one_ahead(map(start, range(count))):
    events.append(('use', i))
  started = [('start', i) for i in range(count)]
  used = [('use', i) for i in range(count)]
  expected = started[:1]
  for i in range(count):
    expected += [*started[i + 1 : i + 2], used[i]]
  assert events == expected
