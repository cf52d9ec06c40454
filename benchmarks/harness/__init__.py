"""What every workload of the bench shares: proxies under test, load, places to run them, results."""
