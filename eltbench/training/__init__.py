"""The only training loop, and the trained model that comes out of it."""
