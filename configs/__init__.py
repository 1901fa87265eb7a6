"""Configurations; each file has `get_config`, base.py every key."""
