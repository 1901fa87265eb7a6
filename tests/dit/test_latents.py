import json

import jax.numpy as jnp
import numpy as np
import pytest

from core.errors import InputError
from dit import latents

PIXELS = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)


def test_every_pixel_survives_the_round_trip():
  x = latents.from_pixels(PIXELS)
  assert x.dtype == jnp.float32
  assert (x.min(), x.max()) == (-1, 1)
  back = latents.to_pixels(x)
  assert back.dtype == jnp.uint8
  np.testing.assert_array_equal(back, PIXELS)


def test_pixels_round_to_the_nearest():
  x = latents.from_pixels(PIXELS)
  for shift in (-0.49, 0.49):
    back = latents.to_pixels(x + shift / 127.5)
    np.testing.assert_array_equal(back, PIXELS)


def test_values_outside_are_clipped():
  x = jnp.asarray([-1e6, -3, -1.01, 1.01, 3, 1e6])
  np.testing.assert_array_equal(latents.to_pixels(x), [0] * 3 + [255] * 3)


STORED = {
  'autoencoder': {'name': 'sd_vae', 'encoder_sha256': 'abc'},
  'decoder': {'autoencoder': 'sd_vae:/vae.safetensors', 'sha256': 'def'},
  'normalization': {'mean': [0.0], 'std': [0.5]},
  'classes': ['cat', 'dog'],
}


def test_latent_space_is_stored_as_it_was():
  space = latents.LatentSpace.from_json(STORED)
  assert space.normalization == latents.Normalization((0.0,), (0.5,))
  assert space.decoder.text == 'sd_vae:/vae.safetensors'
  assert space.classes == ('cat', 'dog')
  assert json.dumps(space.to_json()) == json.dumps(STORED)


@pytest.mark.parametrize('stored', [{}, None, [], {'decoder': None}])
def test_unknown_latent_space(stored):
  space = latents.LatentSpace.from_json(stored)
  assert space == latents.LatentSpace() and space.to_json() == {}


def test_older_files_lack_keys_or_spell_them_differently():
  stored = {key: STORED[key] for key in ('autoencoder', 'normalization')}
  space = latents.LatentSpace.from_json(stored)
  assert space.decoder is None and space.classes == ()
  stored['normalisation'] = stored.pop('normalization')
  assert latents.LatentSpace.from_json(stored) == space
  stored = {'decoder': {'autoencoder': 'taesd:/vae'}}
  place = latents.LatentSpace.from_json(stored).decoder
  assert place == latents.DecoderPlace('taesd:/vae')


@pytest.mark.parametrize('damage', [
  {'autoencoder': 3},
  {'autoencoder': {'encoder_sha256': 'abc'}},
  {'normalization': None},
  {'normalization': {'mean': 3, 'std': [1.0]}},
])  # fmt: skip
def test_damaged_latent_space(damage):
  with pytest.raises(InputError, match='is damaged'):
    latents.LatentSpace.from_json(STORED | damage)
  assert latents.DecoderPlace.from_json({'sha256': 3}).text == ''
