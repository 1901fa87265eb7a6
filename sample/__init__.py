"""Samplers: noise to latents, and latents to images."""

from sample.pictures import tile
from sample.pipeline import Pipeline, load

__all__ = ['Pipeline', 'load', 'tile']
