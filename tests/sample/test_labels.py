import pytest

from core.errors import InputError
from sample.generate import plan_labels
from sample.labels import class_name, find_classes, named

ANIMALS = ('bird', 'cat', 'golden retriever', 'sea_lion')
IMAGENET = ('tench, Tinca tinca', 'goldfish, Carassius auratus', 'crane',
            'crane, bird')  # fmt: skip


@pytest.mark.parametrize(('text', 'names', 'expected'), [
  ('bird,3,golden retriever', ANIMALS, [0, 3, 2]),
  ('Golden Retriever, sea lion', ANIMALS, [2, 3]),
  ('2,2,0', ANIMALS, [2, 2, 0]),
  ('3', (), [3]),
  # Users may give the full name of a class, or the part before a comma.
  ('tench,goldfish', IMAGENET, [0, 1]),
  ('tench, Tinca tinca,1', IMAGENET, [0, 1]),
  # A full name takes precedence over a shortened name.
  ('crane', IMAGENET, [2]),
  ('crane, bird', IMAGENET, [3]),
  # A number that is also a class name selects the class of this name.
  ('7', ('7', '3', '0', '1'), [0]),
  ('3,2', ('7', '3', '0', '1'), [1, 2]),
  ('1,0', ('0', '1', '2', '3'), [1, 0]),
])  # fmt: skip
def test_classes_are_accepted_by_name_or_number(text, names, expected):
  assert find_classes(text, 4, names) == expected
  labels = plan_labels(text, 5, 4, seed=0, names=names)
  assert labels.tolist() == (expected * 5)[:5]


@pytest.mark.parametrize(('text', 'names', 'message'), [
  ('brid', ANIMALS, "not 'brid'. Did you mean 'bird'"),
  ('bird,goldn retriever', ANIMALS, "mean 'golden retriever'"),
  ('balance', ANIMALS, "labels 'balance': expected balanced, random"),
  ('', (), 'expected balanced, random'),
  ('3,x', (), 'expected balanced, random'),
  ('4', ANIMALS, 'between 0 and 3'),
  ('-1', ANIMALS, 'between 0 and 3'),
  ('bird,', ANIMALS, 'classes by name'),
  ('crane', ('crane', 'crane'), 'names classes 0 and 1; give a number'),
  ('1' * 5000, ANIMALS, 'classes by name'),
  (',' * 100_000, IMAGENET, 'classes by name'),
])  # fmt: skip
def test_unknown_class_gives_the_nearest_name(text, names, message):
  with pytest.raises(InputError, match=message) as error:
    plan_labels(text, 5, 4, seed=0, names=names)
  assert '\n' not in str(error.value) and len(str(error.value)) < 300


def test_names_in_pictures():
  assert class_name(0, ANIMALS) == 'bird'
  assert class_name(0, IMAGENET) == 'tench'
  assert class_name(3, ('0', '1', '2', '3')) == 'class 3'
  assert class_name(3) == 'class 3'
  assert len(class_name(0, ('x' * 99,))) < 30
  assert named('0,2', {'0': 'bird', '2': '2'}) == 'bird, class 2'
  assert named('balanced', {'0': 'bird'}) == 'balanced'
