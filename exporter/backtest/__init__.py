"""`replay`: the drop alerts on recorded plays."""
