"""How good samples are: features, distances between sets of images, copies of training images, pictures."""
