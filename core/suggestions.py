"""Suggestions for unknown flags and config keys.

A table translates the words of other tools, such as `--cfg_scale`. For a word
outside the table, the suggestion is a similar known word, or nothing.
"""

import re
from collections.abc import Collection

from core.errors import nearest, nearest_words
from core.renamed_keys import RENAMED

_LENGTH = '--config.train.images (images seen: steps times train.batch_size)'
_CFG = '--guidance=cfg:SCALE'
# Each row has words of other tools, then our names in order of preference. Only
# flags that the command has are suggested.
_TABLE: tuple[tuple[str, ...], ...] = (
  ('adam_beta1 beta1', '--config.optimizer.b1'),
  ('adam_beta2 beta2', '--config.optimizer.b2'),
  ('arch', '--config.model.name'),
  ('bs', '--config.train.batch_size', '--config.sample.batch_size'),
  ('cfg cfg_scale guidance_scale', _CFG),
  ('cfg_dropout class_dropout_prob', '--config.objective.label_dropout'),
  ('checkpoint checkpoint_path ckpt', '--workdir', '--folder', '--from'),
  ('ckpt_every save_every', '--config.checkpoint.every_images'),
  ('class classes', '--labels', '--config.model.num_classes'),
  ('class_labels', '--labels'),
  (
    'clip_grad grad_clip gradient_clipping max_grad_norm',
    '--config.optimizer.clip',
  ),
  ('data_dir', '--config.data.dir'),
  ('data_path', '--images', '--config.data.dir'),
  ('dataset', '--config.data.name'),
  ('ema_decay', '--config.ema.decay'),
  (
    'epochs iterations iters max_epochs max_steps max_train_steps num_epochs '
    'num_train_steps total_steps train_steps',
    _LENGTH,
  ),
  ('fid_samples n_samples num_fid_samples num_images num_samples', '--num'),
  ('global_batch_size', '--config.train.batch_size'),
  ('global_seed random_seed', '--seed', '--config.seed'),
  (
    'grad_accumulation gradient_accumulation_steps',
    '--config.train.accumulate',
  ),
  ('ig_scale', '--guidance=ig:SCALE'),
  ('image_size', '--image_size', '--config.model.size'),
  ('last_step_size', '--config.sample.last_step_size'),
  ('learn_sigma', '--config.model.learned_variance'),
  ('learning_rate lr', '--config.optimizer.lr'),
  ('log_every', '--config.log.every_images'),
  ('mixed_precision', '--config.model.dtype'),
  ('model', '--workdir', '--folder', '--from', '--config.model.name'),
  ('model_path', '--folder', '--workdir', '--from'),
  (
    'num_inference_steps num_sampling_steps sample_steps sampling_steps '
    'timesteps',
    '--config.sample.steps',
  ),
  ('num_layers', '--config.model.depth'),
  ('num_steps steps', _LENGTH, '--config.sample.steps'),
  ('num_workers', '--config.data.workers'),
  ('outdir output output_dir', '--out', '--to', '--workdir'),
  ('patch patch_size', '--config.model.name (FAMILY-SIZE/PATCH)'),
  ('preview_autoencoder', '--autoencoder'),
  ('per_device_batch_size', '--config.train.batch_size (over all devices)'),
  ('per_proc_batch_size', '--config.sample.batch_size (over all devices)'),
  ('pretrained', '--config.train.init_from', '--folder'),
  ('results_dir', '--out', '--workdir'),
  ('resume', '--workdir (the same command again resumes)'),
  ('sample_dir', '--out'),
  ('sampler sampling_method solver', '--config.sample.solver'),
  ('scheduler', '--config.optimizer.schedule', '--config.sample.solver'),
  ('seed', '--config.seed'),
  ('vae', '--autoencoder', '--config.data.autoencoder'),
  ('wandb', '--config.log.wandb=PROJECT'),
  ('warmup_steps', '--config.optimizer.warmup_images'),
  ('wd weight_decay', '--config.optimizer.weight_decay'),
)
WORDS = {word: names for words, *names in _TABLE for word in words.split()}

# Flags that replaced config keys.
FLAGS = {
  'compare.methods': '--guidance (of compare, once for each method)',
  'compare.num': '--num (of compare)',
  'compare.resamples': '--bootstrap (of compare)',
  'compare.sweep_methods': '--guidance (of sweep)',
  'compare.sweep_scales': '--guidance (of sweep)',
  'prepare.batch_size': '--batch_size (of prepare)',
  'prepare.dtype': '--dtype (of prepare)',
  'prepare.image_size': '--image_size (of prepare)',
  'prepare.max_broken': '--max_broken (of prepare)',
  'prepare.shard_records': '--shard_records (of prepare)',
  'prepare.threads': '--threads (of prepare)',
}


def for_flag(flag: str, known: Collection[str], *, trains: bool) -> str:
  """Returns ' Did you mean ...?' for a flag like '--cfg_scale' or '-w', or ''.

  `known` are the flags of the command. If the command `trains`, sampling keys
  come after other keys. Otherwise, sampling keys come first.
  """
  word = _plain(flag)
  if len(word) == 1:
    matches = (name for name in known if name.startswith(f'--{word}'))
    return next(map(_question, matches), '')
  candidates = sorted(
    WORDS.get(word, ()), key=lambda name: trains == ('.sample.' in name)
  )
  for candidate in (f'--{word}', *candidates):
    name = re.split('[= ]', candidate)[0]
    if name in known or name.startswith('--config.'):
      return _question(candidate)
  return nearest(flag, known)


def for_key(key: str, known: Collection[str]) -> str:
  """Returns ' Did you mean ...?' for an unknown config key, or ''."""
  if RENAMED.get(key) in known:
    return _question(RENAMED[key])
  if key in FLAGS:
    return _question(FLAGS[key])
  section, _, word = key.rpartition('.')
  siblings = {
    name.removeprefix(f'{section}.'): name
    for name in known
    if name.startswith(f'{section}.')
  }
  if section and not siblings:
    return nearest(key, known)
  for candidate in sorted(
    WORDS.get(_plain(word), ()), key=lambda name: f'.{section}.' not in name
  ):
    return _question(candidate.removeprefix('--config.'))
  matches = [name for name in known if name.endswith(f'.{word}')]
  options = matches[:1] or [
    siblings[name] for name in nearest_words(word, siblings)
  ]
  return _question(options[0]) if options else ''


def _plain(word: str) -> str:
  return word.lstrip('-').replace('-', '_').lower()


def _question(suggestion: str) -> str:
  """Returns ' Did you mean ...?' with quotes around the first word only."""
  word, *explanation = suggestion.split(' ', 1)
  return ' '.join([f' Did you mean {word!r}', *explanation]) + '?'
