"""The logic: terms; reading, substituting, evaluating and compiling them."""
