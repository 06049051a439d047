"""Audit: do the figures of the paper's tables follow from the networks that the tables describe?"""
