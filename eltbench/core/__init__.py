"""What a run is made of, and what every room stands on: configuration, names, random streams, files, the machine."""
