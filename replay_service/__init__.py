"""The replay service: shards that hold experience, and the client that reads them all."""
