"""Convergence: how many training steps, samples and FLOPs does a looped model need to be as good as unique layers?"""
