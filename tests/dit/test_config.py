"""Tests named sizes, parameter counts and errors of the configuration."""

import dataclasses

import jax
import pytest

from core.errors import InputError
from dit import model
from dit.config import DiTConfig, named_size


@pytest.mark.parametrize(('name', 'depth', 'width', 'num_heads', 'patch'), [
  ('SiT-S/2', 12, 384, 6, 2), ('SiT-B/4', 12, 768, 12, 4),
  ('SiT-L/2', 24, 1024, 16, 2), ('SiT-XL/2', 28, 1152, 16, 2),
  ('SiT-XL/1', 28, 1152, 16, 1), ('SiT-Tiny/2', 6, 96, 4, 2),
])  # fmt: skip
def test_named_sizes(name, depth, width, num_heads, patch):
  sizes = {'depth': depth, 'width': width, 'num_heads': num_heads}
  assert named_size(name).items() >= {**sizes, 'patch': patch}.items()


@pytest.mark.parametrize(('name', 'parts'), [
  ('SiT-S/8', ('layernorm', 'gelu', False, False, 'velocity')),
  ('DiT-XL/2', ('layernorm', 'gelu', False, True, 'noise')),
  ('LightningDiT-XL/1', ('rmsnorm', 'swiglu', True, False, 'reversed')),
])  # fmt: skip
def test_families(name, parts):
  names = ('norm', 'mlp', 'rope', 'learned_variance', 'convention')
  expected = dict(zip(names, parts, strict=True))
  assert named_size(name).items() >= expected.items()


@pytest.mark.parametrize(('name', 'tap', 'count'), [
  ('SiT-B/2', 4, 131_693_600), ('SiT-L/2', 8, 460_202_016),
])  # fmt: skip
def test_parameter_counts(name, tap, count):
  config = DiTConfig(
    size=32, channels=4, num_classes=1000, taps=(tap,), **named_size(name)
  )
  shapes = model.shapes(config)
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


@pytest.mark.parametrize(('name', 'suggestion'), [
  ('SiT-XXL/2', 'SiT-XL/2'), ('SiT-xl/2', 'SiT-XL/2'), ('SiT-XL', 'SiT-XL/2'),
  ('SiT-XL/0', 'SiT-XL/2'), ('DIT-XL/2', 'DiT-XL/2'),
  ('LightingDiT-XL/1', 'LightningDiT-XL/2'),
])  # fmt: skip
def test_unknown_size_suggests_the_nearest(name, suggestion):
  with pytest.raises(InputError, match=f"Did you mean '{suggestion}'"):
    named_size(name)


@pytest.mark.parametrize(('change', 'message'), [
  ({'taps': (5,)}, 'between 1 and depth - 1 = 4'),
  ({'taps': (0,)}, 'taps has 0, expected an integer from 1'),
  ({'taps': (3, 2)}, 'rising order'),
  ({'taps': (2, 2)}, 'distinct'),
  ({'num_heads': 5}, 'not divisible by model.num_heads 5'),
  ({'width': 30, 'num_heads': 3}, 'not divisible by 4'),
  ({'patch': 3}, 'patch 3 does not divide the latent size 8'),
  ({'depth': 0, 'taps': ()}, 'model.depth is 0'),
  ({'attention': 'cudnn', 'width': 48}, 'choose xla'),
  ({'attention': 'cudn'}, "xla, cudnn. Did you mean 'cudnn'"),
  ({'remat': 'ful'}, "none, dots, full. Did you mean 'full'"),
  ({'dtype': 'float16'}, "Did you mean 'bfloat16'|Did you mean 'float32'"),
  ({'param_dtype': 'bfloat'}, "Did you mean 'bfloat16'"),
  ({'param_dtype': 'auto'}, 'expected one of float32, bfloat16'),
  ({'qk_norm': 'layer_norm'}, "Did you mean 'layernorm'"),
  ({'norm': 'rms'}, 'expected one of layernorm, rmsnorm'),
  ({'mlp': 'swi_glu'}, "Did you mean 'swiglu'"),
  ({'convention': 'reverse'}, "Did you mean 'reversed'"),
  ({'rope': True, 'num_heads': 16}, 'is 2, which rotary positions'),
  ({'dtype': 'float64'}, 'JAX_ENABLE_X64=1'),
])  # fmt: skip
def test_parts_that_do_not_fit(config, change, message):
  with pytest.raises(InputError, match=message):
    dataclasses.replace(config, **change)


# Multiply-adds in billions. Peebles & Xie (2023) call this number GFLOPs.
PUBLISHED = {
  'DiT-S/2': 6.06, 'DiT-B/2': 23.01, 'DiT-B/4': 5.56, 'DiT-L/2': 80.71,
  'DiT-L/4': 19.70, 'DiT-XL/2': 118.64, 'DiT-XL/4': 29.05,
}  # fmt: skip


@pytest.mark.parametrize('name', PUBLISHED)
def test_multiply_adds(name):
  config = DiTConfig(size=32, channels=4, num_classes=1000, **named_size(name))
  assert config.multiply_adds / 1e9 == pytest.approx(PUBLISHED[name], rel=0.01)


SMALL = DiTConfig(size=8, channels=3, num_classes=10, patch=2, depth=5,
                  width=32, num_heads=4)  # fmt: skip


def test_multiply_adds_of_other_parts():
  config = SMALL
  # Per token: projections 4 width^2, attention 2 tokens * width, MLP 8 width^2.
  tokens, width = 16, 32
  block = tokens * (4 * width**2 + 2 * tokens * width + 2 * 4 * width**2)
  assert config.multiply_adds == 5 * (block + 6 * width**2)
  fewer = dataclasses.replace(config, shift=False)
  assert config.multiply_adds - fewer.multiply_adds == 5 * 2 * width**2
  # SwiGLU has three matrices. Its hidden width is 2/3 of 4 * width, floored.
  gated = dataclasses.replace(config, mlp='swiglu')
  hidden = 2 * 128 // 3
  expected = 5 * tokens * width * (3 * hidden - 2 * 128)
  assert gated.multiply_adds - config.multiply_adds == expected


@pytest.mark.parametrize('known', [True, False])
def test_null_label_has_a_row_of_its_own(known):
  assert SMALL.null_label  # the default
  config = dataclasses.replace(SMALL, null_label=known)
  assert model.shapes(config)['label_embed'].shape == (10 + known, 32)
  denoiser = model.bind(config, {})
  assert denoiser.null_label is known
  assert denoiser.multiply_adds == config.multiply_adds


def test_derived_sizes(config):
  assert config.num_tokens == 16
  assert config.latent_shape == (8, 8, 3)
  assert config.activation_dtype == 'float32'  # dtype 'auto' on a CPU


@pytest.mark.parametrize(('backend', 'dtype', 'kind'), [
  ('gpu', 'auto', 'cudnn'), ('gpu', 'bfloat16', 'cudnn'),
  ('gpu', 'float32', 'xla'), ('cpu', 'bfloat16', 'xla'), ('tpu', 'auto', 'xla'),
])  # fmt: skip
def test_cudnn_is_of_gpus_in_bfloat16(monkeypatch, backend, dtype, kind):
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)
  config = dataclasses.replace(SMALL, attention='cudnn', dtype=dtype)
  assert config.attention_here == kind
  assert dataclasses.replace(config, attention='xla').attention_here == 'xla'
