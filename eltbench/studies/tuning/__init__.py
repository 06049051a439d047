"""Tuning: which rate, residual scale and norm suit each model of a world, chosen on validation items?"""
