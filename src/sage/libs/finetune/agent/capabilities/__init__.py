"""Measuring what a model can do: any model, any test set, one report."""
