"""Loading the users into Feast's online store in bulk. Reading them for a request is `features.online_store`.

Nothing here is a Feast definition: a store's own folder holds `feature_store.yaml` and the registry, no Python.
"""
