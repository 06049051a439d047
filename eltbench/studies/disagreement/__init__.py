"""Disagreement: do the exits of a looped model tell where it is wrong, and can it stop early with a guarantee?"""
