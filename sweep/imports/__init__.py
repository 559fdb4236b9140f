"""Folders of adapter files, made into a dataset; open_dataset takes either."""
