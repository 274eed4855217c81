"""From count tables to answers."""
