"""What everything rests on: errors, ranges, files, locks, processes."""
