"""Sampling: from noise to latents, and from latents to images."""

from sample.pictures import tile
from sample.pipeline import Pipeline, load

__all__ = ['Pipeline', 'load', 'tile']
