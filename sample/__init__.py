"""Sampling: from noise to latents, and from latents to images."""

from sample.loading import load
from sample.pictures import tile
from sample.pipeline import Pipeline

__all__ = ['Pipeline', 'load', 'tile']
