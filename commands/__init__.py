"""The commands of main.py: their flags, their checks, their output."""
