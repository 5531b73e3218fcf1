"""Sources of images: a folder in a store (``storage.Folder``), or an archive downloaded from a store or by https."""
