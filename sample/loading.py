"""Loads a run or a folder of weights as a `Pipeline`."""

import dataclasses

from etils import epath
from jax.sharding import Mesh

from core.errors import InputError, check_choice
from dit import backbone
from dit.path import path_named
from dit.sharding import MeshConfig, make_mesh
from dit.weights.files import fetch_folder
from sample.arguments import library_terms
from sample.decoder import read_decoder
from sample.generate import Sampler
from sample.pipeline import Pipeline
from sample.saved_network import open_network

DTYPES = ('float32', 'bfloat16')


def load(
  place: epath.PathLike,
  *,
  weights: str = 'ema',
  step: int | None = None,
  autoencoder: str | None = None,
  mesh: Mesh | None = None,
  dtype: str | None = None,
) -> Pipeline:
  """Reads a network and its settings for sampling.

  Args:
    place: Workdir of a run, or folder of weights from `main.py convert`, also
      as hf://ORG/NAME.
    weights: Weights of a run, 'ema' or 'raw'; a folder has one set.
    step: Step of a run's checkpoint; None for the newest.
    autoencoder: Decoder of the latents as NAME:FILE[,FILE...], such as
      'sd_vae:vae.safetensors'; None for the stored decoder, or if latents
      are images.
    mesh: Devices; None for all devices.
    dtype: Type of activations, 'float32' or 'bfloat16'; None for the type that
      the run or folder records.

  Raises:
    InputError: if there is no network, or the autoencoder does not match it.
  """
  with library_terms():
    if dtype is not None:
      check_choice('dtype', dtype, DTYPES)
    return _load(
      epath.Path(fetch_folder(place)).expanduser(),
      weights,
      step,
      autoencoder,
      mesh,
      dtype,
    )


def _load(
  place: epath.Path,
  weights: str,
  step: int | None,
  autoencoder: str | None,
  mesh: Mesh | None,
  dtype: str | None,
) -> Pipeline:
  """Reads a network; `load` explains the arguments."""
  if weights.startswith('ema:'):
    raise InputError(
      f'weights is {weights!r}; averages by width are read from a folder: '
      f'python main.py convert --from={place} --to=FOLDER --weights={weights}.'
    )
  mesh = make_mesh(MeshConfig()) if mesh is None else mesh
  network = open_network(place)
  if not network.is_run and (weights != 'ema' or step is not None):
    raise InputError(
      f'{place} is a folder of weights, which holds one set; weights and '
      'step are for runs.'
    )
  config, path, sampling = network.config, network.path, network.sampling
  if dtype is not None:
    config = dataclasses.replace(config, dtype=dtype)
  decoder = read_decoder(autoencoder, config.channels, network.latents, mesh)
  sampler = Sampler(
    backbone.bind(config, network.load(mesh, weights, step)),
    sampling,
    path_named(path),
    config.latent_shape,
    mesh,
    decoder,
  )
  return Pipeline(sampler, network.latents.classes)
