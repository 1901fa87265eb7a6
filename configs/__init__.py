"""Configurations; each file has `get_config(arg)`, base.py every key."""
