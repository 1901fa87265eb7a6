"""The decoder of a network's latents, from the user or from a stored location.

`prepare` stores the location and hash of the decoder with the data, and `train`
stores both in the run, so later commands find the decoder.
"""

import dataclasses

from jax.sharding import Mesh

from core.errors import InputError
from dit import model
from dit.autoencoder import Autoencoder
from dit.autoencoder.files import FLAG, read_autoencoder, split_places
from dit.latents import DecoderPlace, LatentSpace
from dit.weights.files import local


def remembered(
  text: str | None, loaded: Autoencoder | None
) -> DecoderPlace | None:
  """Returns the location and hash of a decoder, for storage.

  Args:
    text: Text that the user gave.
    loaded: Autoencoder that was read from `text`.

  Returns:
    The name, absolute path and hash; None if there is no decoder.
  """
  if text is None or loaded is None or 'decoder' not in loaded.params:
    return None
  name, _, paths = text.partition(':')
  names = ','.join(
    word if '://' in word else str(local(word).absolute())
    for word in split_places(paths)
  )
  digest = model.fingerprint(loaded.params['decoder'])
  return DecoderPlace(f'{name}:{names}', digest)


def place_of(text: str | None, space: LatentSpace) -> str | None:
  """Returns the user's NAME:FILE, or else the NAME:FILE stored in the run."""
  if text is None and space.decoder is not None:
    return space.decoder.text
  return text


def read_decoder(
  text: str | None, channels: int, space: LatentSpace, mesh: Mesh
) -> Autoencoder | None:
  """Reads the autoencoder that decodes the network's latents.

  Args:
    text: Text that the user gave, as in `read_autoencoder`; None for the
      location that is stored in the run or folder.
    channels: Number of channels of the network's latents.
    space: Latent space that is stored in the run or folder.
    mesh: Devices for the weights.

  Returns:
    The autoencoder with the normalization from the network's training; None if
    latents are images.

  Raises:
    InputError: if the autoencoder does not fit the network, or is missing.
  """
  record = space.decoder if text is None else None
  if record is not None:
    text, decoder = _recall(record, mesh)
  else:
    decoder = read_autoencoder(text, mesh, 'decoder')
  expected = space.autoencoder
  check_decoder(decoder, channels, expected)
  if text is None or decoder is None or expected is None:
    return decoder
  name = text.partition(':')[0]
  if name != expected:
    raise InputError(
      f'autoencoder is {name}, but the network was trained on latents of '
      f'{expected}.'
    )
  encoder = decoder.params.get('encoder')
  if encoder and model.fingerprint(encoder) != space.encoder_sha256:
    raise InputError(
      f'the encoder in {text} is not that of the latents that the network was '
      'trained on; give the file that they were prepared with.'
    )
  return dataclasses.replace(decoder, normalization=space.normalization)


def _recall(record: DecoderPlace, mesh: Mesh) -> tuple[str, Autoencoder | None]:
  """Reads the stored autoencoder, and checks that its hash is unchanged."""
  text, expected = record.text, record.sha256
  if not text:
    raise InputError(
      f'the autoencoder stored in the run is damaged; give {FLAG}=NAME:FILE.'
    )
  name = text.partition(':')[0]
  try:
    decoder = read_autoencoder(text, mesh, 'decoder')
  except InputError as error:
    raise InputError(
      f'the autoencoder that was given before, {text}, cannot be read: {error} '
      f'Give its new location: {FLAG}={name}:FILE[,FILE].'
    ) from error
  digest = model.fingerprint(decoder.params['decoder']) if decoder else None
  if expected and digest != expected:
    raise InputError(
      f'the decoder in {text} is not the one that was given before: its '
      f'SHA-256 is {str(digest)[:12]}..., expected {expected[:12]}...; give '
      f'the one to use: {FLAG}={name}:FILE[,FILE].'
    )
  return text, decoder


def check_decoder(
  decoder: Autoencoder | None, channels: int, name: str | None = None
) -> None:
  """Raises InputError if a decoder is missing or has another channel count."""
  has_latents = channels not in (1, 3) or name not in (None, 'pixels')
  if decoder is None and has_latents:
    raise InputError(
      f'the network makes latents of {channels} channels, not images; give '
      f'their decoder: {FLAG}={name or "NAME"}:FILE[,FILE], such as '
      f'{FLAG}=sd_vae:vae.safetensors.'
    )
  if decoder is not None and decoder.latent_channels != channels:
    raise InputError(
      f'the autoencoder has {decoder.latent_channels} latent channels, the '
      f'network {channels}; choose the one that it was trained on.'
    )
