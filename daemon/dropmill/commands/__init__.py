"""What each command does and prints. `cli` declares the commands; each module here is imported
when one of its commands is run, so that none pays for what another needs."""
