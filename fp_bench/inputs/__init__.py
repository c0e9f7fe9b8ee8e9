"""Where Q, K and V come from. Every record names its source; records of different sources are never compared."""
