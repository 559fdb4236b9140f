"""Figures, tables and a page from the records of one or several runs."""
