"""From noise to latents, to images, to numbers."""

from sample.pictures import tile
from sample.pipeline import Pipeline, load

__all__ = ['Pipeline', 'load', 'tile']
