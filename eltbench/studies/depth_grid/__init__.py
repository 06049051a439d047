"""Depth grid: how should a given depth be made of N unique layers and L loops?"""
