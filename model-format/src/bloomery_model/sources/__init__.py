"""Sources of images: a folder in a store (``stores.Folder``), or an archive downloaded from a store or by https."""
