"""What every other package stands on: errors, parameters, randomness, files, pixels, devices. Imports nothing of ours."""
