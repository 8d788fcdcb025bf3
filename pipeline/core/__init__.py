"""What every other package stands on: errors, parameters, randomness, files, pixels, devices; imports none of ours."""
