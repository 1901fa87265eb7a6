"""Samples latents from noise, and decodes latents to images."""

from sample.loading import load
from sample.pictures import tile
from sample.pipeline import Pipeline

__all__ = ['Pipeline', 'load', 'tile']
