"""Data: from images to records, and from records to batches on devices."""
