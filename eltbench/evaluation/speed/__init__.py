"""How fast a network call is: stopwatch, ceilings of the machine, the roofline."""
