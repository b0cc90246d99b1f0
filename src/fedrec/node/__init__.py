"""What holds users' data: it answers calls, keeps private rows and a record, lets sums out. Imports owner and below."""
