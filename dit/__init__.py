"""The network and the space it works in."""
