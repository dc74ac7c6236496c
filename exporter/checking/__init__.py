"""The subcommand `check-config --online`: what the API says to the accounts and the media of a configuration."""
