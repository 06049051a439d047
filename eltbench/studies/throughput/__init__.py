"""Throughput: what is timed (cells), how (fresh processes), and what the times say beside the roofline."""
