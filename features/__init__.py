"""The bottom layer: raw logs become tables, tables become features. Imports no other layer."""
