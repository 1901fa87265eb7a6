"""Converts weights from one kind of file to another.

  from                                       to
  published file, or hf://org/name/file      folder, published .safetensors
  folder (`dit.weights.folder`)              published .safetensors
  workdir of a run: its newest checkpoint    folder, published .safetensors
  any of these                               folder of quantized weights

A published file does not name its network. Flags therefore specify the family
and those settings that array shapes do not determine.
"""

import argparse
import dataclasses
import pathlib
from typing import Annotated, Any

import jax
import numpy as np
from absl import logging
from etils import epath

from core.errors import InputError, check_choice, reason
from core.files import read_json
from core.folder_lock import file_lock
from core.ranges import Range, check_value
from distill import lineage
from dit.base import NetworkConfig, Params
from dit.config import SIZES
from dit.sharding import MeshConfig, make_mesh
from dit.weights import convert
from dit.weights.files import HUB, PICKLES, read_tensors
from dit.weights.folder import (
  check_target,
  load_config,
  load_folder,
  save_folder,
  save_tensors,
  scheme_of,
)
from dit.weights.quantize import SCHEMES
from evaluate.extractor_registry import convert_inception
from sample.model_card import FILE, model_card
from sample.saved_network import load_latents, open_network
from train import workdir
from train.experiment import build
from train.runs import Source, run_weights, sampling_of

Network = tuple[NetworkConfig, Params, dict[str, Any]]

INCEPTION = 'inception'
_HEADS = {width: num_heads for _, width, num_heads in SIZES.values()}
_NEVER_WRITTEN = (*PICKLES, '.bin', '.npz', '.npy')


@dataclasses.dataclass(frozen=True)
class PublishedFacts:
  """Settings of a network that its published tensors do not determine.

  Attributes:
    num_heads: Number of attention heads; None for the width's usual number.
    taps: Number of blocks before the intermediate head; () without such a head.
    null_label: Whether the last label is the null label.
  """

  num_heads: int | None = None
  taps: tuple[int, ...] = ()
  null_label: bool = True


def run(args: argparse.Namespace) -> None:
  """Runs `convert`."""
  report = exchange(
    args.source,
    args.target,
    family=args.family,
    facts=PublishedFacts(
      args.num_heads, args.taps or (), not args.no_null_label
    ),
    weights=args.weights,
    quantize=args.quantize,
    allow_nonfinite=args.allow_nonfinite,
  )
  print(report)


def exchange(
  source: str,
  target: str,
  *,
  family: str | None = None,
  facts: PublishedFacts = PublishedFacts(),
  weights: str | None = None,
  quantize: str | None = None,
  allow_nonfinite: bool = False,
) -> str:
  """Converts weights and returns a report.

  Raises InputError, and writes nothing, if the target exists, or if the source
  is damaged, does not fit the network, or cannot become the target.

  Args:
    source: Published file, folder of weights, or run.
    target: New path of a published file if the path ends with .safetensors;
      otherwise, new path of a folder.
    family: Published format, 'inception' or one of `convert.FAMILIES`. None is
      allowed if a run becomes a folder, or if a source folder names its format.
    facts: Settings that the tensors of a published source do not determine.
    weights: 'ema', 'raw' or, for a run, 'ema:WIDTH'; None for 'ema', or for the
      only available weights.
    quantize: Scheme of a target folder, one of `quantize.SCHEMES`; or None.
    allow_nonfinite: Whether to convert non-finite weights. A target folder
      records this permission, so that `sample` accepts the folder.
  """
  if family is not None:
    check_choice('--family', family, (*convert.FAMILIES, INCEPTION))
  if quantize is not None:
    check_choice('--quantize', quantize, SCHEMES)
  to_file = _is_file(target)
  if quantize and (to_file or family == INCEPTION):
    raise InputError(
      f'--quantize writes a folder of weights, which {target} is not: no '
      'published format supports quantized weights.'
    )
  if family == INCEPTION:
    if not to_file:
      raise InputError(f'{target} must end with .safetensors for {family}.')
    with file_lock(target, 'convert', instead='choose another --to'):
      return convert_inception(source, target)
  kind = _kind(source)
  _check_pair(source, kind, to_file, family, quantize)
  if facts.num_heads is not None:
    heads = Annotated[int, Range(1, 65_536)]
    check_value('--num_heads', facts.num_heads, heads)
  if kind != 'published' and facts != PublishedFacts():
    raise InputError(
      '--num_heads, --taps and --no_null_label are for published sources; the '
      f'{kind} {source} specifies them itself.'
    )
  with file_lock(target, 'convert', instead='choose another --to'):
    if kind == 'published':
      network = _read_published(source, family, facts, weights, allow_nonfinite)
    elif kind == 'folder':
      network = _read_folder(source, weights, allow_nonfinite)
    else:
      network = _read_run(source, weights, allow_nonfinite)
    report = _write(target, to_file, family, network, quantize, allow_nonfinite)
  return f'{source} -> {target}: {report}'


def _check_pair(
  source: str, kind: str, to_file: bool, family: str | None, scheme: str | None
) -> None:
  """Raises InputError for a source that cannot become the target."""
  if kind == 'folder' and (packing := scheme_of(load_config(source)[1])):
    raise InputError(
      f'{source} holds {packing} weights, which cannot be quantized again or '
      'published; convert the original weights.'
    )
  if kind == 'folder' and not (to_file or scheme):
    raise InputError(
      f'{source} is a folder of weights already: copy it, name a published '
      'file as target, such as model.safetensors, or give --quantize.'
    )
  if kind == 'run' and to_file and family is None:
    raise InputError(
      '--family is needed for a published file: one of '
      f'{", ".join(convert.FAMILIES)}.'
    )


def _is_file(target: str) -> bool:
  """Returns whether the target is a published file, not a folder."""
  suffix = pathlib.PurePath(target).suffix.lower()
  if suffix in PICKLES:
    raise InputError(
      f'{target} cannot be written: a {suffix} file is a pickle, which can '
      'run code when it is opened. Write .safetensors, which PyTorch reads too '
      '(safetensors.torch.load_file).'
    )
  if suffix in _NEVER_WRITTEN:
    raise InputError(
      f'{target} cannot be written; expected a folder or a name that ends '
      'with .safetensors.'
    )
  check_target(target)
  return suffix == '.safetensors'


def _kind(source: str) -> str:
  """Returns the kind of a source: 'published', 'folder' or 'run'."""
  if source.startswith(HUB):
    return 'published'
  try:
    path = epath.Path(source).expanduser()
    exists = path.exists()
  except (KeyError, ImportError, RuntimeError) as error:  # raised by epath
    raise InputError(
      f'{source} cannot be read ({reason(error)}); expected a path on '
      f'this machine, a workdir on gs://, or {HUB}org/name/file.'
    ) from error
  if not exists:
    raise InputError(
      f'{source} does not exist; expected a published file, a folder of '
      f'weights or the workdir of a run (or {HUB}org/name/file).'
    )
  if not path.is_dir():
    return 'published'
  if not (path / 'config.json').exists():
    raise InputError(
      f'{source} is neither a folder of weights nor the workdir of a run: it '
      'holds no config.json.'
    )
  return 'run' if open_network(source).is_run else 'folder'


def _read_published(
  source: str,
  family: str | None,
  facts: PublishedFacts,
  weights: str | None,
  allow_nonfinite: bool,
) -> Network:
  if family is None:
    raise InputError(
      '--family is needed: a published file does not specify which of '
      f'{", ".join(convert.FAMILIES)} it is.'
    )
  if convert.FAMILIES[family].inside and not facts.taps:
    raise InputError(
      f'--taps is needed: family {family} has an intermediate head, and the '
      'file does not specify after how many blocks; published recipes use 8 '
      'for L and XL, 4 for B.'
    )
  tensors, kind = read_tensors(
    source, weights=weights or 'ema', allow_nonfinite=allow_nonfinite
  )
  heads = facts.num_heads
  config, params = convert.from_published(
    tensors,
    family=family,
    num_heads=_num_heads(tensors) if heads is None else heads,
    taps=facts.taps,
    null_label=facts.null_label,
  )
  return config, params, {'weights': kind, 'source': source, 'family': family}


def _num_heads(tensors: dict[str, np.ndarray]) -> int:
  """Returns the usual number of attention heads for the network's width."""
  shape = np.shape(tensors.get('x_embedder.proj.weight', 0))
  if not shape:
    return 1  # any value: the converter then reports an unknown network
  if shape[0] not in _HEADS:
    raise InputError(
      f'--num_heads is needed: shapes do not show it, and no named size has '
      f'width {shape[0]} ({", ".join(map(str, _HEADS))}).'
    )
  return _HEADS[shape[0]]


def _read_folder(
  source: str, weights: str | None, allow_nonfinite: bool
) -> Network:
  config, params, info = load_folder(source, allow_nonfinite=allow_nonfinite)
  if weights not in (None, info.get('weights')):
    raise InputError(
      f'{source} holds weights {info.get("weights")!r} only, not {weights!r}; '
      'leave --weights out to take them.'
    )
  return config, params, info


def _read_run(
  source: str, weights: str | None, allow_nonfinite: bool
) -> Network:
  weights = weights or 'ema'
  experiment = build(workdir.load_config(source))
  mesh = make_mesh(MeshConfig(), jax.local_devices()[:1])
  params, step = run_weights(
    source, experiment.model, mesh, weights, allow_nonfinite=allow_nonfinite
  )
  info = {
    'weights': weights,
    'source': source,
    'step': step,
    'path': experiment.objective.path,
    'latents': load_latents(source).to_json(),
    # A few-step student must sample with the settings of its training.
    'sample': sampling_of(experiment),
  }
  if Source.at(source).is_student:
    info['student'] = lineage.about_student(source)
  return experiment.model, jax.device_get(params), info


def _card(
  target: str,
  config: NetworkConfig,
  info: dict[str, Any],
  quantize: str | None,
  count: int,
) -> str:
  """Returns the model card of a folder with `count` parameters."""
  about, results = dict(info), ''
  if quantize is not None:
    about['weights'] = f'{info.get("weights")}, quantized to {quantize}'
  elif 'source' in info and 'step' in info:
    results = _results(epath.Path(info['source']).expanduser(), info)
  title = pathlib.PurePath(target).name
  return model_card(title, config, about, count=count, results=results)


def _results(run: epath.Path, info: dict[str, Any]) -> str:
  """Returns the results of `compare` for the weights of a run, or ''."""
  record, table = run / 'compare.json', run / 'table.md'
  if not record.exists() or not table.exists():
    return ''
  try:
    protocol = read_json(record)['protocol']
    measured = protocol['weights'], protocol['step']
    sampling, data = protocol['sampling'], protocol['data']['name']
    note = (
      f'Frechet distances to {protocol["reference"]} of {data}, in the '
      'features of a classifier (not FID) and in pixels; '
      f'{protocol["compare"]["num"]} images per method, {sampling["solver"]} '
      f'with {sampling["steps"]} steps, seed {protocol["seed"]}.'
    )
  except (InputError, LookupError, TypeError) as error:
    logging.warning('The card has no results: %s (%s).', record, reason(error))
    return ''
  if measured != (info['weights'], info['step']):
    return ''
  return f'{note}\n\n{table.read_text()}'


def _write(
  target: str,
  to_file: bool,
  family: str | None,
  network: Network,
  quantize: str | None,
  allow_nonfinite: bool,
) -> str:
  """Writes the network and returns a report."""
  config, params, info = network
  family = family or info.get('family')
  if to_file:
    if family is None:
      raise InputError('--family is needed: the folder does not specify it.')
    check_choice('family', family, convert.FAMILIES)
    tensors = convert.to_published(config, params, family=family)
    save_tensors(
      target, tensors, family=family, weights=str(info.get('weights'))
    )
  else:
    tensors = convert.flatten(params)
    size = sum(tensor.size for tensor in tensors.values())
    save_folder(
      target,
      config,
      params,
      info=info,
      scheme=quantize,
      allow_nonfinite=allow_nonfinite,
      files={FILE: _card(target, config, info, quantize, size)},
    )
  count = sum(tensor.size for tensor in tensors.values())
  report = (
    f'{count:,} parameters in {len(tensors)} tensors, '
    f'weights: {info.get("weights")}, family: {family or "none given"}'
  )
  if quantize is None:
    return report
  path = pathlib.Path(target).expanduser() / 'model.safetensors'
  size = path.stat().st_size
  return (
    f'{report}, {quantize}: {size:,} bytes, {size / count / 4:.3f} of float32'
  )
