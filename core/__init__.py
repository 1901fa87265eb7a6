"""Shared foundations: errors, ranges, files, locks and processes."""
