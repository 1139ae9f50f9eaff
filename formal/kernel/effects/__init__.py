"""Which function may write what of the modelled state, by types; who calls whom; and when each can run."""
