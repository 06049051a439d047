"""Signals of uncertainty of a prediction, and how well they tell where a model is wrong."""
