"""When to stop looping: rules, their guarantees, and what stopping early costs and saves."""
