import dataclasses
import re

import jax.numpy as jnp
import numpy as np
import pytest
from toy import TOY

from core.errors import InputError
from guidance import (
  AdaptiveProjected,
  AutoGuidance,
  ClassifierFree,
  ClassifierFreePlusPlus,
  ClassifierFreeZero,
  FrequencyDecoupled,
  Guidance,
  IndependentCondition,
  Internal,
  Scale,
  SkipLayer,
  StochasticSelf,
  Tangential,
  parse,
)
from guidance.parse import METHODS, describe, with_guide

TEXTS = [
  'ig:1.78:null=1,cfg:2', 'ig:2:null=0.5:null_low=0.1:null_high=0.9,cfg:2',
  'none', 'ig:1.4', 'ig:1', 'ig:0', 'cfg:0.5', 'cfg:1.35@0-0.7',
  'cfg:1.35@0.125-1', 'cfg:7.5@0.001-0.999', 's2:1.25', 's2:1.25:skip=2',
  'ig:1.4:tap=1@0.1-0.9', 'ig:1.4,cfg:1.35', 'cfg:1.35,s2:1.25',
  'ig:2:tap=3@0.3-1,cfg:1.2@0-0.7,s2:1.6:skip=4@0.2-0.5', 'cfg:1e+16',
  'cfg:1.2345678', 'cfg:1.5@0.3333333333-1', 'cfg:1.5@1e-05-1',
  'cfg:4:guided_channels=3@0-0.9', 'cfg:4:guided_channels=123456789',
  'cfg:2:schedule=linear', 'ig:2:schedule=cosine@0.3-1',
  'cfg:3.8:schedule=power_cosine:power=2.5', 'cfg++:0.6',
  'cfg++:1:guided_channels=3@0-0.7', 'cfg++:0', 'cfg_zero:1.5',
  'cfg_zero:1.5:zero_steps=0', 'cfg_zero:1:zero_steps=10@0.1-1', 'apg:4',
  'apg:4:eta=0.5:norm=15:momentum=-0.5',
  'apg:4:schedule=linear:eta=1:momentum=0.75@0.1-0.9',
  'tcfg:5:schedule=cosine@0-0.5', 'fdg:10:low=5', 'fdg:1:low=0.25@0-0.7',
  'icg:1.4', 'icg:1.4:schedule=linear@0.2-1',
  's2:1.25:skip=2:masks=3:exclude=1+27@0.1-0.9',
  'slg:3.8:blocks=7+8+9@0.8-0.99', 'slg:2:blocks=4', 'auto:2.1',
  'auto:2.1:schedule=cosine@0-0.9', 'cfg:7.5,rescale:0',
  'ig:1.4,apg:3:eta=0.1,s2:1.25,slg:2:blocks=3,auto:1.5,rescale:1',
]  # fmt: skip


@pytest.mark.parametrize('text', TEXTS)
def test_describe_inverts_parse(text):
  assert describe(parse(text)) == text
  assert parse(describe(parse(text))) == parse(text)


def options_of(method):
  names = {field.name for field in dataclasses.fields(method)}
  return (names - {'scale', 'guide'}) | {'schedule', 'power'}


def test_every_method_and_option_is_among_them():
  seen = {name: set() for name in METHODS}
  for part in ','.join(set(TEXTS) - {'none'}).split(','):
    name, *options = part.split('@')[0].split(':')
    if name != 'rescale':
      seen[name] |= {option.split('=')[0] for option in options[1:]}
  for name, method in METHODS.items():
    own = options_of(method) - {'schedule', 'power'}
    assert seen[name] - {'schedule', 'power'} == own
  schedules = {'schedule', 'power'}
  assert schedules <= set.union(*seen.values())


@pytest.mark.parametrize(('text', 'normal'), [
  ('s2:1.25,cfg:1.35', 'cfg:1.35,s2:1.25'),
  ('rescale:.5,auto:2,slg:2:blocks=1,apg:3,ig:2',
   'ig:2,apg:3,slg:2:blocks=1,auto:2,rescale:0.5'),
  ('cfg:2:power=4:schedule=constant:guided_channels=0@0-1', 'cfg:2'),
  ('cfg:2.50:power=3:schedule=power_cosine',
   'cfg:2.5:schedule=power_cosine:power=3'),
  ('s2:1:exclude=5+3', 's2:1:exclude=5+3'),
])  # fmt: skip
def test_normal_form(text, normal):
  assert describe(parse(text)) == normal
  assert parse(normal) == parse(text)


@pytest.mark.parametrize(('text', 'guidance'), [
  ('none', Guidance()),
  ('', Guidance()),
  ('ig:1.4', Guidance(Internal(Scale(1.4)))),
  ('cfg:1.35@0-0.7', Guidance(None, (ClassifierFree(Scale(1.35, 0, 0.7)),))),
  ('s2:1.25:skip=2', Guidance(None, (StochasticSelf(Scale(1.25), 2),))),
  ('cfg:4:guided_channels=3@0-0.9',
   Guidance(None, (ClassifierFree(Scale(4.0, 0.0, 0.9), 3),))),
  ('s2:.5, ig:2:tap=1@0.3-1 ,cfg:1e-1',
   Guidance(Internal(Scale(2.0, 0.3, 1.0), 1),
            (ClassifierFree(Scale(0.1)), StochasticSelf(Scale(0.5))))),
  ('cfg++:0.1', Guidance(None, (ClassifierFreePlusPlus(Scale(0.1)),))),
  ('cfg_zero:2:zero_steps=3',
   Guidance(None, (ClassifierFreeZero(Scale(2.0), 3),))),
  ('apg:2:momentum=-0.5:norm=15:eta=.1',
   Guidance(None, (AdaptiveProjected(Scale(2.0), 0.1, 15.0, -0.5),))),
  ('tcfg:2:schedule=power_cosine:power=2',
   Guidance(None, (Tangential(Scale(2.0, 0.0, 1.0, 'power_cosine', 2.0)),))),
  ('fdg:10:low=5,rescale:0.7',
   Guidance(None, (FrequencyDecoupled(Scale(10.0), 5.0),), 0.7)),
  ('icg:1.4', Guidance(None, (IndependentCondition(Scale(1.4)),))),
  ('s2:1.2:masks=2:exclude=1+3:skip=4',
   Guidance(None, (StochasticSelf(Scale(1.2), 4, 2, (1, 3)),))),
  ('auto:2,slg:3.8:blocks=7+8@0.8-0.99',
   Guidance(None, (SkipLayer(Scale(3.8, 0.8, 0.99), (7, 8)),
                   AutoGuidance(Scale(2.0))))),
])  # fmt: skip
def test_parse(text, guidance):
  assert parse(text) == guidance


@pytest.mark.parametrize('number', [jnp.float32, np.float32, np.float64, float])
def test_describe_reads_scales_of_a_compiled_program(number):
  guidance = Guidance(None, (ClassifierFree(Scale(number(1.35))),))
  assert describe(guidance) == 'cfg:1.35'
  bands = FrequencyDecoupled(Scale(number(2)), number(1.35))
  guidance = Guidance(None, (bands,), number(0.7))
  assert describe(guidance) == 'fdg:2:low=1.35,rescale:0.7'


def test_with_guide():
  guidance = with_guide(parse('ig:2,cfg:1.5,auto:2@0-0.5'), TOY)
  assert guidance.terms[1] == AutoGuidance(Scale(2.0, 0.0, 0.5), TOY)
  assert describe(guidance) == 'ig:2,cfg:1.5,auto:2@0-0.5'
  assert with_guide(parse('cfg:1.5'), TOY) == parse('cfg:1.5')


EVERY = re.escape(f'are {", ".join(METHODS)}, rescale and none')


@pytest.mark.parametrize(('text', 'message'), [
  ('cgf:1.4', f"method 'cgf'.*{EVERY}.*mean 'cfg'"),
  ('ig:1.4,s3:2', f"method 's3'.*{EVERY}.*mean 's2'"),
  ('autoguidance:2', EVERY),
  ('cfgzero:2', f"{EVERY}.*mean 'cfg_zero'"),
  ('CFG:2', "mean 'cfg'"),
  ('ig:1.4,', "unknown guidance method ''"),
  ('ig:1.4,none', "unknown guidance method 'none'"),
  ('s2:1.4:skp=2', "no option 'skp'; it has schedule, power, skip, masks, "
                   "exclude.*mean 'skip'"),
  ('cfg:1.4:skip=2', "cfg has no option 'skip'; it has .*guided_channels"),
  ('auto:2:guide=x', "auto has no option 'guide'; it has schedule, power"),
  ('cfg:2:scale=3', "no option 'scale'"),
  ('cfg:2:low=0', "cfg has no option 'low'"),
  ('ig', 'expected ig:SCALE'),
  ('ig:', 'expected ig:SCALE'),
  ('ig:high', "cannot read 'ig:high'"),
  ('ig:-1', "cannot read 'ig:-1'"),
  ('ig:1.4.2', 'cannot read'),
  ('ig:nan', 'cannot read'),
  ('cfg:inf', 'cannot read'),
  ('cfg:1e400', 'the scale is not a finite number'),
  ('ig:1.4@0.3', 'cannot read'),
  ('ig:1.4@0.3-0.7-0.9', 'cannot read'),
  ('ig:1.4@0.3-0.7:tap=1', 'cannot read'),
  ('ig:1.4@nan-0.7', 'cannot read'),
  ('ig:1.4@0-1e400', 'interval 0-inf: expected 0 <= low < high'),
  ('ig:1.4:tap', 'cannot read'),
  ('ig:1.4:tap=', 'cannot read'),
  # These values have the wrong type.
  ('ig:1.4:tap=x', "tap is 'x', expected a whole number"),
  ('ig:1.4:tap=1.0', "tap is '1.0', expected a whole number"),
  ('apg:2:eta=much', "eta is 'much', expected a number"),
  ('slg:2:blocks=a', "blocks is 'a', expected blocks such as 7.8"),
  ('slg:2:blocks=7.5', 'expected blocks such as 7.8'),
  ('slg:2:blocks=7+', 'expected blocks such as 7.8'),
  ('cfg:2:schedule=linea', "schedule is 'linea'.*mean 'linear'"),
  ('cfg:2:schedule=3', 'expected one of constant, linear, cosine, power_cos'),
  ('cfg:2:tap=1:tap=1', "no option 'tap'"),
  ('ig:2:tap=1:tap=1', 'sets tap twice'),
  # These values are out of range.
  ('ig:1.4:tap=-1', 'tap is -1, expected a number from 0'),
  ('s2:2:skip=-1', 'skip is -1, expected a number from 0'),
  ('s2:2:masks=0', 'masks is 0, expected a number from 1'),
  ('cfg:2:guided_channels=-1', 'guided_channels is -1'),
  ('cfg_zero:2:zero_steps=-1', 'zero_steps is -1'),
  # Zero-init requires that the interval includes t = 1.
  ('cfg_zero:2@0-0.7', 'its interval ends at 0.7; end it at 1, or add zero_'),
  ('cfg_zero:2:zero_steps=2@0.3-0.9', 'its interval ends at 0.9'),
  ('apg:2:eta=1.5', 'eta is 1.5, expected a number from 0 to 1'),
  ('apg:2:eta=nan', 'eta is nan'),
  ('apg:2:norm=inf', 'norm is inf'),
  ('apg:2:norm=-1', 'norm is -1.0'),
  ('apg:2:momentum=-2', 'momentum is -2.0'),
  ('apg:2:momentum=nan', 'momentum is nan'),
  ('fdg:2:low=nan', 'low is nan'),
  ('fdg:2:low=inf', 'low is inf'),
  ('fdg:2:low=1e999', 'low is inf'),
  ('fdg:2:low=-1', 'low is -1.0'),
  ('cfg:2:power=nan', 'power is nan'),
  ('cfg:2:power=inf', 'power is inf'),
  ('cfg:2:power=-1', 'power is -1'),
  ('cfg:2:power=2', 'power=2 is for schedule=power_cosine, not constant'),
  ('cfg:2:schedule=cosine:power=2', 'power_cosine, not cosine'),
  ('cfg++:7.5', r'cfg\+\+ is 7.5, expected a number from 0 to 1'),
  ('cfg++:0.5:schedule=linear', 'sets its own schedule: leave schedule out'),
  ('rescale:1.5', 'expected rescale:PHI with PHI from 0 .off. to 1'),
  ('rescale:nan', 'expected rescale:PHI with PHI from 0 .off. to 1'),
  ('rescale:-1', 'expected rescale:PHI'),
  ('rescale', 'expected rescale:PHI'),
  ('rescale:0.5@0-0.7', 'expected rescale:PHI'),
  ('rescale:0.5:schedule=linear', 'expected rescale:PHI'),
  ('cfg:2,rescale:0.5,rescale:0.5', 'names rescale twice'),
  ('cfg:1.4@0.7-0.3', 'interval 0.7-0.3: expected 0 <= low < high'),
  ('cfg:1.4@0.5-0.5', 'interval 0.5-0.5: expected 0 <= low < high'),
  ('cfg:1.4@0.7-1.3', 'interval 0.7-1.3: expected 0 <= low < high'),
  ('cfg:1.4,ig:2,cfg:1.2', 'names cfg twice'),
  ('ig:1.4,ig:2', 'names ig twice'),
  # At most one method may act on the label.
  ('cfg:2,apg:2', 'cfg and apg both act on the label; choose one'),
  ('icg:2,s2:2,cfg_zero:2', 'cfg_zero and icg both act on the label'),
  ('cfg:2,cfg++:0.5', r'cfg and cfg\+\+ both act on the label'),
])  # fmt: skip
def test_errors(text, message):
  with pytest.raises(InputError, match=message) as error:
    parse(text)
  assert len(str(error.value).splitlines()) == 1
