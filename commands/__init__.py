"""The commands of main.py, with their flags and reports."""
