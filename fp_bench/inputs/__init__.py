"""Sources of Q, K and V. Every record names its source; records of different sources are never compared."""
