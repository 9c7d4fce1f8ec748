"""`cascade refresh`: a new run from the live one and later logs, brought live if it is not worse."""
