"""Access to the cluster: kubectl, Bloomery's objects, and the servers behind them."""
