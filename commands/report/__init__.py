"""The command `report`, which shows a run as a single HTML page."""

from commands.report.report import run as run
