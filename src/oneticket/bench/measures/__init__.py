"""What ``oneticket bench`` measures: steps, a whole search, the laboratory, a GPU, every model; and the ceiling."""
