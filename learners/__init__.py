"""Learners: train on replayed experience and publish the policy's weights."""
