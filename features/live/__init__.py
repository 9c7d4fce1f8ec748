"""Live events: a user's new interactions, kept in a journal and brought into the online stores of what is served."""
