"""Experiments: several real runs and what they show together."""
