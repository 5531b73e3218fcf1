"""Where images come from: folders, and archives from a store or by https."""
