"""From noise to latents, to images, to numbers."""

from sample.pipeline import Pipeline, load
from sample.writer import tile

__all__ = ['Pipeline', 'load', 'tile']
