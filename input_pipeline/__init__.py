"""Images to records, and records to batches on the devices."""
