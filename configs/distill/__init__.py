"""Few-step students."""
