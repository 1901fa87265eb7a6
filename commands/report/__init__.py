"""The command `report`: a run as one HTML page."""

from commands.report.report import run as run
