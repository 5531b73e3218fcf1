"""Networks: what they are made of, where their weights come from, and the files they become."""
