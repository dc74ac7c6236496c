"""How long a range the API is asked for: what it refuses is found by halves."""

# A range of an hour or less is not made shorter when the API refuses it: what it refuses is something else.
SHORTEST_RANGE = 60

# What was too much to be read is asked for in ranges down to so many minutes. From 3 on, an answer moves on.
SHORTEST_DENSE_RANGE = 4
