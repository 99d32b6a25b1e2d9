"""MOTChallenge folders: tracks are identities, sequences are cameras."""
