"""The command `explore`, a local page on which guidance follows sliders."""

from commands.explore.page import run as run
