"""Converts images to records, and records to batches on devices."""
