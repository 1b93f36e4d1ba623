"""What Winnow does under load, and beside others: scripts to run, each by itself."""
