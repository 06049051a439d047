"""Extrapolation: what happens to quality when a model runs fewer or more loops than it was trained for?"""
