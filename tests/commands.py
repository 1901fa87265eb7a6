"""Command lines in this process, and a small run that several tests look at."""

import contextlib
import io
import pathlib
import sys
import types

import jax
from absl import logging

import main

ROOT = pathlib.Path(__file__).parents[1]
DIGITS = f'--config={ROOT}/configs/digits.py'
# 30 steps; checkpoints at 10, 20, 30; previews at 15, 30.
TINY = {
  'model.depth': 3,
  'model.width': 16,
  'model.num_heads': 2,
  'model.taps': (1,),
  'optimizer.warmup_images': 64,
  'train.images': 480,
  'train.batch_size': 16,
  'checkpoint.every_images': 160,
  'log.every_images': 80,
  'log.preview_every_images': 240,
  'log.preview_num': 20,
  'sample.steps': 3,
  'sample.batch_size': 16,
  'compare.num': 40,
  'compare.methods': ('none', 'ig:1.5', 'ig:1.5,cfg:1.2'),
  'compare.sweep_methods': ('ig',),
  'compare.sweep_scales': (1.0, 2.0),
  'compare.resamples': 5,
}


def run(*argv):
  """Runs a command line in this process."""
  out, err = io.StringIO(), io.StringIO()
  handler = logging.get_absl_handler().python_handler
  stream = handler.setStream(err)
  try:
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
      status = main.main([str(word) for word in argv])
  except SystemExit as error:
    status = error.code
  finally:
    handler.setStream(stream or sys.stderr)
  return types.SimpleNamespace(
    status=status, out=out.getvalue(), err=err.getvalue()
  )


@contextlib.contextmanager
def quickly():
  """Compiles quickly instead of well: for programs that run a few steps."""
  before = jax.config.read('jax_disable_most_optimizations')
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', before)
