"""Actors: step environments with the newest policy and send what happened to replay."""
