"""Autoencoders between images and the network's latents."""

from dit.autoencoder.base import Autoencoder, AutoencoderConfig, shapes
from dit.autoencoder.kl import KLConfig
from dit.autoencoder.names import kl_from_published, tiny_from_published
from dit.autoencoder.registry import AUTOENCODERS, NAMES, Published, load
from dit.autoencoder.tiny import TinyConfig

__all__ = [
  'AUTOENCODERS',
  'NAMES',
  'Autoencoder',
  'AutoencoderConfig',
  'KLConfig',
  'Published',
  'TinyConfig',
  'kl_from_published',
  'load',
  'shapes',
  'tiny_from_published',
]
