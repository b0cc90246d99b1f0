"""Files and tables to interactions: formats, columns, times, and every row that cannot be used."""
