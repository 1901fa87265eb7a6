"""Guidance as text, both ways."""

import jax.numpy as jnp
import pytest

from dit.types import InputError
from guidance import (
  ClassifierFree,
  Guidance,
  Internal,
  Scale,
  StochasticSelf,
  parse,
)
from guidance.parse import describe

TEXTS = [
  'none',
  'ig:1.4',
  'ig:1',
  'ig:0',
  'cfg:0.5',
  'cfg:1.35@0-0.7',
  'cfg:1.35@0.125-1',
  'cfg:7.5@0.001-0.999',
  's2:1.25',
  's2:1.25:skip=2',
  'ig:1.4:tap=1@0.1-0.9',
  'ig:1.4,cfg:1.35',
  'cfg:1.35,s2:1.25',
  's2:1.25,cfg:1.35',
  'ig:2:tap=3@0.3-1,cfg:1.2@0-0.7,s2:1.6:skip=4@0.2-0.5',
  'cfg:1e+16',
  'cfg:1.2345678',
  'cfg:1.5@0.3333333333-1',
]


@pytest.mark.parametrize('text', TEXTS)
def test_describe_inverts_parse(text):
  assert describe(parse(text)) == text
  assert parse(describe(parse(text))) == parse(text)


@pytest.mark.parametrize(
  ('text', 'guidance'),
  [
    ('none', Guidance()),
    ('', Guidance()),
    ('ig:1.4', Guidance(Internal(Scale(1.4)))),
    ('cfg:1.35@0-0.7', Guidance(None, (ClassifierFree(Scale(1.35, 0, 0.7)),))),
    ('s2:1.25:skip=2', Guidance(None, (StochasticSelf(Scale(1.25), 2),))),
    (
      'cfg:4:guided_channels=3@0-0.9',
      Guidance(None, (ClassifierFree(Scale(4.0, 0.0, 0.9), 3),)),
    ),
    (
      's2:.5, ig:2:tap=1@0.3-1 ,cfg:1e-1',
      Guidance(
        Internal(Scale(2.0, 0.3, 1.0), 1),
        (StochasticSelf(Scale(0.5)), ClassifierFree(Scale(0.1))),
      ),
    ),
  ],
)
def test_parse(text, guidance):
  assert parse(text) == guidance


def test_describe_reads_scales_of_a_compiled_program():
  guidance = Guidance(None, (ClassifierFree(Scale(jnp.float32(1.35))),))
  assert describe(guidance) == 'cfg:1.35'


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('cgf:1.4', "method 'cgf'.*are ig, cfg, s2 and none.*mean 'cfg'"),
    ('ig:1.4,s3:2', "method 's3'.*are ig, cfg, s2 and none.*mean 's2'"),
    ('autoguidance:2', 'are ig, cfg, s2 and none'),
    ('ig:1.4,', "unknown guidance method ''"),
    ('ig:1.4,none', "unknown guidance method 'none'"),
    ('s2:1.4:skp=2', "no option 'skp'; it has skip.*mean 'skip'"),
    ('cfg:1.4:skip=2', "cfg has no option 'skip'; it has guided_channels"),
    ('ig', 'expected ig:SCALE'),
    ('ig:', 'expected ig:SCALE'),
    ('ig:high', "cannot read 'ig:high'"),
    ('ig:-1', "cannot read 'ig:-1'"),
    ('ig:1.4.2', 'cannot read'),
    ('ig:nan', 'cannot read'),
    ('ig:1.4@0.3', 'cannot read'),
    ('ig:1.4@0.3-0.7-0.9', 'cannot read'),
    ('ig:1.4@0.3-0.7:tap=1', 'cannot read'),
    ('ig:1.4:tap=x', 'cannot read'),
    ('ig:1.4:tap=-1', 'cannot read'),
    ('cfg:1.4@0.7-0.3', 'interval 0.7-0.3: expected 0 <= low < high'),
    ('cfg:1.4@0.7-1.3', 'interval 0.7-1.3: expected 0 <= low < high'),
    ('cfg:1.4,ig:2,cfg:1.2', 'names cfg twice'),
    ('ig:1.4,ig:2', 'names ig twice'),
  ],
)
def test_errors(text, message):
  with pytest.raises(InputError, match=message) as error:
    parse(text)
  assert '\n' not in str(error.value)
